"""Experiments, their controls, their results. Installed as faithfulness_plugin.benchmarks."""

from faithfulness_plugin.submodules import submodules

__getattr__, __dir__, __all__ = submodules(__name__, __path__)
