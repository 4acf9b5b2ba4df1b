"""The result schema, intervals, open-or-resume, and tables of every experiment."""

from faithfulness_plugin.submodules import submodules

__getattr__, __dir__, __all__ = submodules(__name__, __path__)
