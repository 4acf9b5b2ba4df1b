"""Files and folders that are there whole or not at all."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

UNFINISHED = ".unfinished."
"""The beginning of names until the content is whole; a writer that was killed leaves such names behind."""


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Yield a file beside `path` to be written, which takes its name when the block ends without an error.

    Args:
        path: the file's name; its folder is made where there is none.

    Yields:
        The unfinished file, which is removed after an error.

    Raises:
        OSError: the folder cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f"{UNFINISHED}{path.stem}.", suffix=path.suffix)
    os.close(handle)
    try:
        yield Path(name)
        os.chmod(name, 0o644)
        os.replace(name, path)
    finally:
        Path(name).unlink(missing_ok=True)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder beside `path` to be filled, which takes its name when the block ends without an error.

    A folder that stands there goes once the new one is whole. One writer at a time: what an earlier one left
    unfinished is removed.

    Args:
        path: the folder's name.

    Yields:
        The unfinished folder, which is removed after an error.

    Raises:
        OSError: the folder around it cannot be written.
    """
    unfinished, before = (path.parent / f"{UNFINISHED}{path.name}{end}" for end in ("", ".before"))
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    try:
        yield unfinished
        shutil.rmtree(before, ignore_errors=True)
        put_in_place(unfinished, path, before)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
        if path.exists():
            shutil.rmtree(before, ignore_errors=True)


def put_in_place(new: Path, path: Path, before: Path, keep: Callable[[], bool] = lambda: False) -> None:
    """Give a whole folder its name.

    Args:
        new: the folder.
        path: its name.
        before: where what stands there goes; it comes back where `new` cannot take its place.
        keep: whether what stands there, such as another process's work, stays.

    Raises OSError where the folder around it cannot be written.
    """
    try:
        os.replace(new, path)
        return
    except OSError:
        if keep():
            return
    with suppress(FileNotFoundError):
        os.replace(path, before)
    try:
        os.replace(new, path)
    except OSError:
        if before.exists():
            os.replace(before, path)
        raise


def write_text(path: Path, text: str) -> None:
    """Write a text file by `new_file`, in UTF-8.

    Args:
        path: the file's name.
        text: its content.

    Raises:
        OSError: the folder cannot be written.
    """
    with new_file(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")
