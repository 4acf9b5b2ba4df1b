"""The transcoders in a folder that has many of them."""

import os
import re
from collections.abc import Sequence
from pathlib import Path

from faithfulness_plugin.transcoders.formats.format import Format

DEPTH = 3
"""Folders within folders that are looked into: Gemma Scope has a layer's, a width's, a sparsity's."""


def transcoders_inside(folder: Path, formats: Sequence[Format]) -> list[str]:
    """What could be passed instead, relative to the folder: folders with weights in them, and checkpoints."""
    found: set[Path] = set()
    for here, folders, files in os.walk(folder):
        depth = len(Path(here).relative_to(folder).parts)
        folders[:] = [name for name in folders if depth < DEPTH and not name.startswith(".")]
        for one in formats:
            if depth and any(Path(file).match(pattern) for pattern in one.folders for file in files):
                found.add(Path(here))
            found |= {Path(here, file) for pattern in one.checkpoints for file in files if Path(file).match(pattern)}
    return sorted((str(path.relative_to(folder)) for path in found), key=_in_order)


def _in_order(name: str) -> list[tuple[int, str]]:
    """Numbers by size: layer_2 before layer_10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]
