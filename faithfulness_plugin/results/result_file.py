"""Opening a result file without losing or mixing what stands in it."""

from pathlib import Path
from typing import TypeVar

from faithfulness_plugin.differences import differences
from faithfulness_plugin.results.schema import Result, ResultError, read_result, write_text

RESULT_FILENAME = "result.json"

T_RESULT = TypeVar("T_RESULT", bound=Result)


def begin_or_go_on(out: Path, fresh: T_RESULT, *, overwrite: bool, write: bool = True) -> T_RESULT:
    """The result that stands in `out`, where it has the settings of the fresh one; else the fresh one, written there.

    Args:
        write: False where more may be found wrong: then the caller writes the fresh one, once nothing is.

    Raises:
        ResultError: `out` cannot be written, or holds a result of other settings, a partial one of other versions, or
            other files.
    """
    path = out / RESULT_FILENAME
    if path.exists() and not overwrite:
        result = read_result(path, type(fresh))
        if changed := differences(result.settings, fresh.settings):
            raise ResultError(
                f"{path} holds a result with other settings ({changed}): choose another --out, or pass --overwrite"
            )
        if not result.complete:
            require_versions(path, result, fresh)
        return result
    if not overwrite and any(not entry.name.startswith(".") for entry in _entries(out)):
        raise ResultError(
            f"{out} is not empty and holds no {RESULT_FILENAME}: choose another --out, or pass --overwrite"
        )
    if write:
        write_text(path, fresh.model_dump_json(indent=1))
    return fresh


def require_versions(path: Path, there: Result, here: Result) -> None:
    """Raises ResultError where the result was begun with other versions of packages than are installed."""
    if changed := differences(there.environment.packages, here.environment.packages):
        raise ResultError(
            f"{path} was begun with other versions ({changed}): install those to go on, choose another --out, "
            "or pass --overwrite"
        )


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir()) if folder.exists() else []
    except OSError as error:
        raise ResultError(f"{folder} cannot be used ({error.strerror}): choose another --out") from error
