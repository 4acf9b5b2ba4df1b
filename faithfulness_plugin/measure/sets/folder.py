"""Which sets of transcoders a folder holds: one transcoder in each subfolder, as `faithfulness train` writes them."""

import re
from collections.abc import Mapping
from pathlib import Path

from faithfulness_plugin.errors import UsageError

OF_A_BLOCK = re.compile(r"(?:block|layer)s?[_.-]?\d+[_.-]?|^layers\.\d+\.|^\d+$")
"""The part of a subfolder's name that says the block; the rest says the set."""
CONFIG = "cfg.json"
TRAINED = "transcoders"
"""The folder within a run's, where `faithfulness train` puts them."""


def folders_in(source: str) -> dict[str, Path]:
    """List the transcoders of sets.

    Args:
        source: a folder, or anything else that a command takes for a transcoder.

    Returns:
        Subfolders by name; none where the source is one transcoder, or none of these.
    """
    place = Path(source)
    if not place.is_dir() or (place / CONFIG).exists():
        return {}
    if not list(place.glob(f"*/{CONFIG}")) and (place / TRAINED).is_dir():
        place = place / TRAINED
    return {found.parent.name: found.parent for found in sorted(place.glob(f"*/{CONFIG}"))}


def sets_in(sources: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """Sort the transcoders of folders into sets, by what their names say beside the block.

    "block0_coefficient0.2" and "block1_coefficient0.2" are of the set "coefficient0.2".

    Args:
        sources: folders by name.

    Returns:
        By the set's name, the transcoders' folders by their own names. A set that is alone in its folder has the
        folder's name; with several folders, that name stands before it.

    Raises:
        UsageError: a folder that holds no transcoders in subfolders.
    """
    found: dict[str, dict[str, str]] = {}
    for name, source in sources.items():
        if not (folders := folders_in(source)):
            raise UsageError(
                f"{source} is no folder of transcoders of several layers: measure sets by themselves, and single "
                "transcoders by themselves"
            )
        by_set: dict[str, dict[str, str]] = {}
        for called, folder in folders.items():
            by_set.setdefault(OF_A_BLOCK.sub("", called).strip("_.-"), {})[called] = str(folder)
        for label, of in by_set.items():
            whole = name if len(by_set) == 1 or not label else label if len(sources) == 1 else f"{name}/{label}"
            found[whole] = {**found.get(whole, {}), **of}
    return found
