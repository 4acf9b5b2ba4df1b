"""Write a figure all or nothing, with the fingerprint of the result that it shows."""

import os
from pathlib import Path

from matplotlib.figure import Figure

from faithfulness_plugin.results.schema import ResultError


def save_figure(figure: Figure, path: Path, source: str, dpi: int = 150) -> None:
    """Write a PNG beside its final name and rename it. The same figure gives the same bytes.

    Args:
        source: what it was made from; stands in the PNG's "Source" field.

    Raises:
        ResultError: the file cannot be written.
    """
    unfinished = path.with_name(f".{path.name}")
    try:
        figure.savefig(unfinished, format="png", dpi=dpi, metadata={"Software": None, "Source": source})
        os.replace(unfinished, path)
    except OSError as error:
        raise ResultError(f"{path} cannot be written ({error.strerror}): move it away") from error
    finally:
        unfinished.unlink(missing_ok=True)
