"""Open a result file without losing or mixing what stands in it."""

import os
from pathlib import Path
from typing import TypeVar

from faithfulness_plugin.differences import differences
from faithfulness_plugin.results.schema import Result, ResultError, read_result

RESULT_FILENAME = "result.json"

T_RESULT = TypeVar("T_RESULT", bound=Result)


def open_or_resume(out: Path, fresh: T_RESULT, *, overwrite: bool = False) -> T_RESULT:
    """Open the result in a folder where it has the settings of `fresh`. Nothing is written.

    Args:
        out: the folder of the result.
        fresh: an empty result with the settings that are wanted.
        overwrite: return `fresh`, whatever stands in `out`.

    Returns:
        The result that stands there, complete or partial, or `fresh`.

    Raises:
        ResultError: `out` cannot be read or written, or holds a result of other settings, a partial one of other
            versions of the packages, or other files.
    """
    path = out / RESULT_FILENAME
    there = next(folder for folder in (out, *out.absolute().parents) if folder.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise ResultError(f"{out} cannot be written (see {there}): choose another --out")
    if overwrite:
        return fresh
    if path.exists():
        result = read_result(path, type(fresh))
        if changed := differences(result.settings, fresh.settings):
            raise ResultError(
                f"{path} holds a result with other settings ({changed}): choose another --out, or pass --overwrite"
            )
        if not result.complete:
            require_versions(path, result, fresh)
        return result
    try:
        entries = list(out.iterdir()) if out.exists() else []
    except OSError as error:
        raise ResultError(f"{out} cannot be used ({error.strerror}): choose another --out") from error
    if any(not entry.name.startswith(".") for entry in entries):
        raise ResultError(
            f"{out} is not empty and holds no {RESULT_FILENAME}: choose another --out, or pass --overwrite"
        )
    return fresh


def require_versions(path: Path, there: Result, here: Result) -> None:
    """Refuse to resume a result that was begun with other versions of the packages than are installed.

    Args:
        path: the result's file, for the message.
        there: the partial result.
        here: an empty result of this environment.

    Raises:
        ResultError: versions differ.
    """
    if changed := differences(there.environment.packages, here.environment.packages):
        raise ResultError(
            f"{path} was begun with other versions ({changed}): install those to resume, choose another --out, "
            "or pass --overwrite"
        )
