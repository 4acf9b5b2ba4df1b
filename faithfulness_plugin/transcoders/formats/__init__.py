"""Transcoders in the file formats of other libraries, read without those libraries."""
