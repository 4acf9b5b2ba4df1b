"""Scripts to read and run."""
