"""The function that a transcoder replaces, its derivatives, and its place between two hooks of a model."""

from faithfulness_plugin.submodules import submodules

__getattr__, __dir__, __all__ = submodules(__name__, __path__)
