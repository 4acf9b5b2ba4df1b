"""What the figures share: panel titles that fit, and writing a figure all or nothing."""

import os
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure


def set_title(ax: Axes, name: str) -> None:
    """A condition's title above a narrow panel: centred, and broken at its plus sign."""
    ax.set_title(name.replace(" + ", "\n+ ", 1), fontsize=10, multialignment="center")


def save_figure(figure: Figure, path: Path, source: str, dpi: int = 150) -> None:
    """Writes a PNG beside its final name and renames it. The same figure gives the same bytes.

    `source` says what it was made from and stands in the PNG's "Source" field."""
    unfinished = path.with_name(f".{path.name}")
    try:
        figure.savefig(unfinished, format="png", dpi=dpi, metadata={"Software": None, "Source": source})
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
