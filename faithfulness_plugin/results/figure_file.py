"""Write a figure all or nothing, with the fingerprint of the result that it shows."""

from pathlib import Path

from matplotlib.figure import Figure

from faithfulness_plugin.atomic import new_file
from faithfulness_plugin.results.schema import ResultError


def save_figure(figure: Figure, path: Path, source: str, dpi: int = 150) -> None:
    """Write an image, all or nothing, in the format of its suffix. The same figure gives the same PNG, byte by byte.

    Args:
        figure: what to write.
        path: the file.
        source: the fingerprint of the result that it shows; stands in a PNG's "Source" field.
        dpi: pixels an inch.

    Raises:
        ResultError: the file cannot be written.
    """
    metadata = {"Software": None, "Source": source} if path.suffix == ".png" else None
    try:
        with new_file(path) as unfinished:
            figure.savefig(unfinished, format=path.suffix[1:], dpi=dpi, metadata=metadata)
    except OSError as error:
        raise ResultError(f"{path} cannot be written ({error.strerror}): move it away") from error
