"""The artifact track of the faithfulness benchmark: finished transcoders against their real layer."""

from faithfulness_plugin.submodules import submodules

__getattr__, __dir__, __all__ = submodules(__name__, __path__)
