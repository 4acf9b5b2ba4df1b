"""The packages, found: `adapters` and `benchmarks` stand at the top of the repository and are installed inside ours."""

from setuptools import find_packages, setup

ours = find_packages(include=["faithfulness_plugin*"])
mapped = find_packages(include=["adapters*", "benchmarks*"])
setup(packages=[*ours, *(f"faithfulness_plugin.{name}" for name in mapped)])
