"""Looking into a pickled .pt file without unpickling it."""

import pickletools
from pathlib import Path
from zipfile import BadZipFile, ZipFile

import torch


def strings_in(path: Path) -> frozenset[str]:
    """The strings that are pickled there, the names of tensors among them; none where it cannot be read."""
    try:
        with ZipFile(path) as archive:
            name = next(name for name in archive.namelist() if name.endswith("data.pkl"))
            pickled = archive.read(name)
        return frozenset(arg for _, arg, _ in pickletools.genops(pickled) if isinstance(arg, str))
    except (OSError, BadZipFile, StopIteration, ValueError, LookupError):
        return frozenset()


def globals_in(path: Path) -> list[str]:
    """The classes and functions, as "module.name", that the file needs and torch does not hold for safe; none where it
    cannot be read."""
    try:
        return torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # whatever a damaged file makes of it: reading it will say so
        return []
