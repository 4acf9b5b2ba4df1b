"""Transcoders of a real language model, from a file of settings: what `faithfulness train` does."""
