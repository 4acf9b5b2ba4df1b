"""Transcoders of a language model's layers, measured on prompts that they were not trained on."""
