"""Layers whose mechanism is known, with the shortcuts that their data offer: one task a file."""
