"""Experiments, their controls, their results. Installed as faithfulness_plugin.benchmarks."""
