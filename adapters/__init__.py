"""Bridges to other libraries, one file each, imported lazily. Installed as faithfulness_plugin.adapters."""

from faithfulness_plugin.submodules import submodules

__dir__ = submodules(__name__, __path__)[1]  # names alone: asking for one must not fail for want of its library
