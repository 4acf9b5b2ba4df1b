"""Figures, one per file: arrays in, a matplotlib Figure out. Colours are safe for the colour-blind."""
