"""Where an export may be written: a folder that is empty or not there yet, or one that holds an export of its kind."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from faithfulness_plugin.errors import UsageError


@dataclass(frozen=True)
class ExportKind:
    """The files of one kind of export."""

    name: str
    """Such as "delphi's latents"."""
    files: str
    """A regular expression for the paths of all its files below the folder."""
    owner: Callable[[Path], str | None]
    """Reads from a folder whose export it holds, such as "layer 3 of gpt2"; None where it does not say."""


def require_place(folder: Path, kind: ExportKind, *, overwrite: bool = False, joins: str | None = None) -> None:
    """Refuse a folder whose files an export would replace or mix with its own.

    Args:
        folder: where the export goes.
        kind: what it consists of.
        overwrite: replace an export of this kind, whose ever it is; other files are never replaced.
        joins: the owner to whose export files are added.

    Raises:
        UsageError: the folder is a file, holds files of another kind, or an export of another owner.
    """
    if not folder.is_dir():
        if folder.exists():
            raise UsageError(f"{folder} is a file: choose another name for {kind.name}")
        return
    files = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()]
    other = next((file for file in files if re.fullmatch(kind.files, file) is None), None)
    owner = kind.owner(folder) if files and other is None else None
    if files and owner is None:
        raise UsageError(
            f"{folder} is not empty: it holds {other or files[0]}, which is none of {kind.name}; choose another folder"
        )
    if files and owner != joins and not overwrite:
        raise UsageError(
            f"{folder} is not empty: it holds {kind.name} of {owner}; choose another folder, or replace them with "
            "overwrite=True (--overwrite)"
        )
