"""Transcoders of a real language model, from a file of settings: what `faithfulness train` does."""

from faithfulness_plugin.submodules import submodules

__getattr__, __dir__, __all__ = submodules(__name__, __path__)
