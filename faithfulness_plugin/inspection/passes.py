"""The parts of an inspection, one after the other: how far each is, and what finished ones found, kept in a folder."""

import hashlib
import importlib
import shutil
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from faithfulness_plugin import atomic
from faithfulness_plugin.display import line
from faithfulness_plugin.version import __version__

T = TypeVar("T")
Share = Callable[[float], None]
"""Receives how much of a part is done, from 0 to 1."""
OURS = "faithfulness_plugin."


class Passes:
    """Runs the parts of an inspection. With a folder, what a part found is kept in a file, written whole or not at all,
    and a part that is finished is not made again by a later run on the same key.

    Args:
        folder: where to keep what was found; None keeps nothing.
        on_part: receives a part's name and how much of it is done, from 0 to 1.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     first = Passes(Path(folder)).run("sum", "of 1 to 3", lambda done: sum((1, 2, 3)))
        ...     again = Passes(Path(folder)).run("sum", "of 1 to 3", lambda done: 0)
        >>> first, again
        (6, 6)
    """

    def __init__(
        self, folder: Path | None = None, on_part: Callable[[str, float], None] = lambda part, share: None
    ) -> None:
        self.folder, self.on_part = folder, on_part

    def __repr__(self) -> str:
        return line("Passes", {"folder": self.folder})

    def run(self, part: str, key: str, make: Callable[[Share], T]) -> T:
        """Make a part, or read what it found before.

        Args:
            part: its name.
            key: all that decides what it finds. A part of another key is made again.
            make: makes it: numbers, texts, arrays, tensors, dataclasses of this package, and lists and dicts of them.

        Returns:
            What it found.

        Raises:
            OSError: the folder cannot be written.
        """
        self.on_part(part, 0.0)
        file = None if self.folder is None else self.folder / f"{part}-{digest(__version__, key)}.pt"
        if file is not None and (kept := _read(file)) is not None:
            self.on_part(part, 1.0)
            return kept[0]
        found = make(lambda share: self.on_part(part, share))
        if file is not None:
            with atomic.new_file(file) as unfinished:
                torch.save(_plain([found]), unfinished)
        self.on_part(part, 1.0)
        return found

    def key(self, *parts: str | Tensor) -> str:
        """Make a key of what decides a part; where nothing is kept none is needed, and nothing is read for it.

        Args:
            parts: texts and tensors.

        Returns:
            Their `digest`, or "".
        """
        return "" if self.folder is None else digest(*parts)

    def clear(self) -> None:
        """Remove the folder: everything is done."""
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)


def counted(done: Share, total: int) -> Callable[[int], None]:
    """Turn numbers of finished rows or prompts into the share that is done.

    Args:
        done: receives the share.
        total: all of them.

    Returns:
        A function that receives how many more are finished.

    Example:
        >>> advance = counted(print, 4)
        >>> advance(1), advance(3)
        0.25
        1.0
        (None, None)
    """
    finished = 0

    def advance(more: int) -> None:
        nonlocal finished
        finished += more
        done(finished / total)

    return advance


def digest(*parts: str | Tensor) -> str:
    """Identify texts and tensors.

    Args:
        parts: in their order.

    Returns:
        16 hexadecimal digits of SHA-256.

    Example:
        >>> digest("rows", torch.zeros(3)) == digest("rows", torch.zeros(3)) != digest("rows", torch.ones(3))
        True
    """
    found = hashlib.sha256()
    for part in parts:
        if isinstance(part, str):
            found.update(f"{len(part)} {part}".encode())
        else:
            found.update(f"{part.dtype} {list(part.shape)}".encode())
            found.update(part.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()[:16]


def _read(file: Path) -> list[Any] | None:
    """Return what a file holds, its tensors mapped; None where there is none, or none that can be read."""
    try:
        return _rebuilt(torch.load(file, weights_only=True, mmap=True))
    except (OSError, RuntimeError, EOFError, UnpicklingError, ValueError, TypeError, KeyError):
        return None


def _plain(value: Any) -> Any:
    """Return a value as what torch saves without code: arrays as tensors, dataclasses as their fields."""
    if isinstance(value, np.ndarray):
        return {"array": torch.from_numpy(np.ascontiguousarray(value))}
    if isinstance(value, np.generic):
        return value.item()
    if is_dataclass(value):
        of = type(value)
        named = {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
        return {"class": f"{of.__module__}:{of.__qualname__}", "fields": named}
    if isinstance(value, (list, tuple)):
        return type(value)(map(_plain, value))
    return {"dict": {name: _plain(of) for name, of in value.items()}} if isinstance(value, dict) else value


def _rebuilt(value: Any) -> Any:
    """Return what `_plain` was given. No class is built but dataclasses of this package."""
    if isinstance(value, (list, tuple)):
        return type(value)(map(_rebuilt, value))
    if not isinstance(value, dict):
        return value
    if "array" in value:
        return value["array"].numpy()
    if "dict" in value:
        return {name: _rebuilt(of) for name, of in value["dict"].items()}
    module, _, name = value["class"].partition(":")
    of: Any = getattr(importlib.import_module(module), name) if module.startswith(OURS) else None
    if not (isinstance(of, type) and is_dataclass(of)):
        raise ValueError(f"{value['class']} is no dataclass of this package")
    return of(**{name: _rebuilt(each) for name, each in value["fields"].items()})
