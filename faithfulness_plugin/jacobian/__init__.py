"""Jacobians of layers and transcoders, and the loss that matches them. Knows torch only."""

from faithfulness_plugin.submodules import submodules

__getattr__, __dir__, __all__ = submodules(__name__, __path__)
