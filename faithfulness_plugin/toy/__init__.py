"""The absolute-value network, its inputs and its ideal circuits."""

from faithfulness_plugin.submodules import submodules

__getattr__, __dir__, __all__ = submodules(__name__, __path__)
