"""Lines for the person at the terminal, on stderr."""

import os
import sys
from collections.abc import Sequence


def say(line: str, *, all_processes: bool = False) -> None:
    """Print a line at once; of the processes that torchrun started only the first one speaks, unless all shall."""
    if all_processes or os.environ.get("RANK", "0") == "0":
        print(line, file=sys.stderr, flush=True)


def one_line(error: BaseException) -> str:
    """Return the first line of an error's message, or the name of its class where there is none."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def listed(names: Sequence[str], most: int = 6) -> str:
    """Return names separated by commas, an ellipsis for those after the first `most`."""
    return ", ".join(names[:most]) + ", ..." * (len(names) > most)
