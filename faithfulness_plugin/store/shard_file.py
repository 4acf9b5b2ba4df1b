"""The file of one shard: written whole, and checked against its entry in the index."""

import errno
import hashlib
import shutil
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from faithfulness_plugin.atomic import new_file
from faithfulness_plugin.store.index import Shard, StoreError


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
    final = folder / f"rows-{number:05}.safetensors"
    try:
        with new_file(final) as unfinished:
            save_file(dict(tensors), unfinished)
            return Shard(
                file=final.name,
                rows=len(tensors["x"]),
                sha256=_sha256(unfinished),
                n_bytes=unfinished.stat().st_size,
            )
    except (OSError, SafetensorError) as error:
        needed = sum(tensor.nbytes for tensor in tensors.values())
        free = shutil.disk_usage(folder).free
        full = getattr(error, "errno", None) == errno.ENOSPC or free < needed or "No space" in str(error)
        why = f"the disk is full: {free / 1e6:,.0f} MB are free" if full else str(error) or type(error).__name__
        raise StoreError(
            f"{folder}: shard {number} could not be written ({why}); the {n_left} shards that are left need "
            f"{n_left * needed / 1e6:,.0f} MB. What is filled is kept: make room, and call again"
        ) from error


def shard_fault(path: Path, shard: Shard) -> str | None:
    """Read a shard's file, and find out what is wrong with it.

    Args:
        path: the file.
        shard: its entry in the index.

    Returns:
        What is wrong, for a message; None for the file that was written.

    Raises:
        OSError: the file cannot be read.
    """
    if (n_bytes := path.stat().st_size) != shard.n_bytes:
        return f"{path.name} has {n_bytes} bytes, not {shard.n_bytes}"
    return None if _sha256(path) == shard.sha256 else f"{path.name} is not what was written"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(2**22):
            digest.update(block)
    return digest.hexdigest()
