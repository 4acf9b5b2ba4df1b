"""Open a result file without losing or mixing what stands in it."""

import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from faithfulness_plugin.differences import differences
from faithfulness_plugin.results.schema import Result, ResultError, read_result

RESULT_FILENAME = "result.json"
LEAST_ROOM = 2e6
"""Bytes that a disk must have free for any result."""

T_RESULT = TypeVar("T_RESULT", bound=Result)


class Named(Protocol):
    """A part of a result."""

    @property
    def name(self) -> str:
        """The name in messages."""
        ...


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
    require_folder(out, overwrite=overwrite)
    path = out / RESULT_FILENAME
    if overwrite:
        return fresh
    if path.exists():
        result = read_result(path, type(fresh))
        if result.settings != fresh.settings and (larger := result.enlarged(fresh)) is not None:
            result = larger
        _require_settings(path, result, fresh.settings)
        if not result.complete:
            require_versions(path, result, fresh)
        return result
    return fresh


def require_folder(out: Path, *, overwrite: bool = False) -> None:
    """Refuse a folder that cannot take a result. Nothing is loaded for it, and nothing stays written.

    Args:
        out: the result's folder.
        overwrite: whether other files may stand there.

    Raises:
        ResultError: it cannot be written, its disk is full, or other files stand there.
    """
    require_writable(out, "--out")
    try:
        entries = list(out.iterdir()) if out.exists() else []
    except OSError as error:
        raise ResultError(f"{out} cannot be used ({error.strerror}): choose another --out") from error
    if overwrite or (out / RESULT_FILENAME).exists():
        return
    if any(not entry.name.startswith(".") for entry in entries):
        raise ResultError(
            f"{out} is not empty and holds no {RESULT_FILENAME}: choose another --out, or pass --overwrite"
        )


def require_writable(out: Path, option: str, needed: float = LEAST_ROOM) -> None:
    """Refuse a folder that cannot be made or written.

    Args:
        out: the folder.
        option: the option that gave it, for the message.
        needed: bytes that have to be free.

    Raises:
        ResultError: it cannot be written, or its disk has less room.
    """
    there = next(folder for folder in (out, *out.absolute().parents) if folder.exists())
    try:
        if not there.is_dir() or not os.access(there, os.W_OK):
            raise OSError
        with tempfile.TemporaryFile(dir=there):  # a root user may write nowhere, too
            free = shutil.disk_usage(there).free
    except OSError as error:
        reason = f": {error.strerror}" if error.strerror else ""
        raise ResultError(f"{out} cannot be written (see {there}{reason}): choose another {option}") from error
    if free < needed:
        raise ResultError(
            f"{out}: {_megabytes(needed)} are needed and its disk has {_megabytes(free)} free: make room, or choose "
            f"another {option}"
        )


def _megabytes(n: float) -> str:
    return f"{n / 1e6:,.1f} MB"


def require_same_kind(out: Path, kind: str) -> None:
    """Refuse a folder with a result of another command, before the modules that read it are loaded.

    Args:
        out: the result's folder.
        kind: the field `benchmark` of the command's results.

    Raises:
        ResultError: the result is of another command.
    """
    try:
        found = json.loads((out / RESULT_FILENAME).read_bytes())
        other = found.get("benchmark", kind)
    except (OSError, ValueError, AttributeError):
        return  # there is none, or `read_result` says what is wrong
    if other != kind:
        raise ResultError(
            f"{out / RESULT_FILENAME} is a result of another command ({other}): choose another "
            "--out, or pass --overwrite"
        )


def require_resumable(
    out: Path, schema: type[Result], settings: Mapping[str, Any], *, overwrite: bool = False, may_grow: str = ""
) -> bool:
    """Refuse a folder that cannot take a result, or holds another one, before the modules that make one are loaded.

    Args:
        out: the result's folder.
        schema: the class of the command's results.
        settings: those of a result's settings that are known by now.
        overwrite: whether a result may be replaced.
        may_grow: one of them, a number or a sequence, of which the result may be the beginning.

    Returns:
        Whether nothing is left to do: the result is complete, and will be shown again.

    Raises:
        ResultError: as `open_or_resume`.
    """
    require_folder(out, overwrite=overwrite)
    path = out / RESULT_FILENAME
    if path.exists() and not overwrite:
        result = read_result(path, schema)
        there = result.settings
        grows = may_grow in there and _begins(settings[may_grow], there[may_grow])
        known = {n: value for n, value in settings.items() if n in there and not (grows and n == may_grow)}
        _require_settings(path, result, known)
        return result.complete and not grows
    return False


def _begins(larger: Any, smaller: Any) -> bool:
    """Tell whether a number is smaller than another, or a sequence the beginning of another."""
    if isinstance(larger, int):
        return smaller < larger
    return len(smaller) < len(larger) and list(larger[: len(smaller)]) == list(smaller)


def _require_settings(path: Path, result: Result, settings: Mapping[str, Any]) -> None:
    if changed := differences(result.settings, settings):
        raise ResultError(
            f"{path} holds a result with other settings ({changed}): choose another --out, or pass --overwrite"
        )


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


def require_wanted(parts: str, there: Sequence[Named], wanted: Sequence[Named]) -> None:
    """Refuse to resume a result with parts that the settings of now do not ask for: they would be lost in it.

    Args:
        parts: what the parts are called, in the plural.
        there: the parts of the result.
        wanted: those of the settings.

    Raises:
        ResultError: the first part that is not wanted.
    """
    if others := [part.name for part in there if part not in wanted]:
        raise ResultError(
            f"the result has {parts} that these settings leave out ({others[0]}): choose another --out, or pass "
            "--overwrite"
        )
