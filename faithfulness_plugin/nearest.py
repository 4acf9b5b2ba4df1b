"""Suggest close matches for an unknown name."""

import difflib
from collections.abc import Sequence


def nearest(name: str, known: Sequence[str], *, n: int = 1, otherwise: str = "") -> str:
    """Suggest the closest of the known names, as the end of an error message.

    Args:
        name: the unknown name.
        known: the names that exist.
        n: how many are suggested at most.
        otherwise: the text where none is near; by default all known names are listed.

    Returns:
        "did you mean ...?", or that text.
    """
    near = difflib.get_close_matches(name, known, n=n, cutoff=0.5)
    if near:
        return f"did you mean {' or '.join(near)}?"
    return otherwise or f"choose from {', '.join(known)}"
