"""Figures, one per file: arrays in, a matplotlib Figure out."""
