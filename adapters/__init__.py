"""Bridges to other libraries, one file each, imported lazily. Installed as faithfulness_plugin.adapters."""

from faithfulness_plugin.submodules import submodules

__getattr__, __dir__, __all__ = submodules(__name__, __path__)
