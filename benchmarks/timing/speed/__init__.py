"""What matching costs: step times and peak memory of its ways, beside SAELens's own steps."""
