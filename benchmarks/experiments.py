"""The repository's own experiments by name: where each is, and what it measures, for `faithfulness experiment`."""

EXPERIMENTS: dict[str, tuple[str, str]] = {}
"""name: ("module:class", a few words)"""
