"""Lines for the person at the terminal, on stderr."""

import os
import sys
from collections.abc import Sequence


class Voice:
    """How much is said."""

    quiet = False
    """Errors and warnings alone."""


def say(line: str, *, all_processes: bool = False) -> None:
    """Print a line on stderr, at once.

    Args:
        line: the text.
        all_processes: every process prints it; by default only the first of those that torchrun started.
    """
    if Voice.quiet and not line.startswith(("error: ", "warning: ")):
        return
    if all_processes or os.environ.get("RANK", "0") == "0":
        print(line, file=sys.stderr, flush=True)


def one_line(error: BaseException) -> str:
    """Return the first line of an error's message.

    Args:
        error: the error.

    Returns:
        The line, or the name of the error's class where there is none.
    """
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def listed(names: Sequence[str], most: int = 6) -> str:
    """Join names by commas, with an ellipsis for those after the first few.

    Args:
        names: the names.
        most: how many are shown.

    Returns:
        The text.
    """
    return ", ".join(names[:most]) + ", ..." * (len(names) > most)
