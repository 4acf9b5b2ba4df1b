"""What somebody may have meant who wrote a name that there is not."""

import difflib
from collections.abc import Sequence


def nearest(name: str, known: Sequence[str], *, n: int = 1, otherwise: str = "") -> str:
    """ "did you mean ...?" with the n nearest that there are; where none is near, `otherwise`, or all of them."""
    near = difflib.get_close_matches(name, known, n=n, cutoff=0.5)
    if near:
        return f"did you mean {' or '.join(near)}?"
    return otherwise or f"choose from {', '.join(known)}"
