"""The files of a store: written whole, and checked against their entries in the index."""

import errno
import hashlib
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from faithfulness_plugin.atomic import new_file
from faithfulness_plugin.store.index import LayerFile, Shard, StoreError


def write_shard(folder: Path, number: int, tensors: Mapping[str, Tensor], n_left: int) -> Shard:
    """Write a shard whole, or not at all.

    Args:
        folder: the store's.
        number: the shard's number, by which its file is named.
        tensors: what it holds, one row each along the first dimension.
        n_left: how many shards are left to write, this one included, for the message about a full disk.

    Returns:
        The shard's entry in the index.

    Raises:
        StoreError: the disk is full, or cannot be written.
    """
    size = sum(tensor.nbytes for tensor in tensors.values())
    left = f"the {n_left} shards that are left need {n_left * size / 1e6:,.0f} MB"
    path = folder / f"rows-{number:05}.safetensors"
    return Shard(rows=len(tensors["x"]), **write_tensors(path, tensors, f"shard {number}", left))


def write_tensors(path: Path, tensors: Mapping[str, Tensor], what: str, left: str) -> dict[str, Any]:
    """Write a file of a store whole, or not at all.

    Args:
        path: the file.
        tensors: what it holds.
        what: what a message calls it.
        left: what a message says of all that is left to write.

    Returns:
        Its name, digest and size, by the fields of an entry in the index.

    Raises:
        StoreError: the disk is full, or cannot be written.
    """
    try:
        with new_file(path) as unfinished:
            save_file(dict(tensors), unfinished)
            return {"file": path.name, "sha256": _sha256(unfinished), "n_bytes": unfinished.stat().st_size}
    except (OSError, SafetensorError) as error:
        size = sum(tensor.nbytes for tensor in tensors.values())
        free = shutil.disk_usage(path.parent).free
        full = getattr(error, "errno", None) == errno.ENOSPC or free < size or "No space" in str(error)
        why = f"the disk is full: {free / 1e6:,.0f} MB are free" if full else str(error) or type(error).__name__
        raise StoreError(
            f"{path.parent}: {what} could not be written ({why}); {left}. What is filled is kept: make room, "
            "and call again"
        ) from error


class CheckedFiles:
    """Files of a store, each read and checked once, and again when it has changed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._whole: dict[str, tuple[int, int]] = {}
        """The files that were found whole, with the size and time that they had."""

    def fault(self, entry: Shard | LayerFile) -> str | None:
        """Find out what is wrong with a file.

        Args:
            entry: its entry in the index.

        Returns:
            What is wrong, for a message; None for the file that was written.
        """
        path = self._folder / entry.file
        try:
            now = path.stat()
            seen = (now.st_size, now.st_mtime_ns)
            if self._whole.get(entry.file) == seen:
                return None
            if now.st_size != entry.n_bytes:
                return f"{path.name} has {now.st_size} bytes, not {entry.n_bytes}"
            if _sha256(path) != entry.sha256:
                return f"{path.name} is not what was written"
        except OSError as error:
            return f"{path.name} cannot be read ({error.strerror})"
        self._whole[entry.file] = seen
        return None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(2**22):
            digest.update(block)
    return digest.hexdigest()
