"""Open the files of a format, and look into them without reading weights or unpickling anything."""

import json
import pickle
import pickletools
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

import numpy as np
import torch
import yaml
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from faithfulness_plugin.messages import one_line
from faithfulness_plugin.transcoders.formats.errors import FormatError


def settings_in(looks_like: str, path: Path) -> Mapping[str, Any]:
    """Read the settings of a JSON or YAML file.

    Args:
        looks_like: the format's title, for messages.
        path: the file.

    Returns:
        The settings by name.

    Raises:
        FormatError: the file is missing or damaged, or holds no settings by name.
    """
    try:
        text = path.read_text(encoding="utf-8")
        found = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except FileNotFoundError as error:
        raise FormatError(
            f"{path.parent} looks like {looks_like}, and lacks {path.name}: copy it there, too"
        ) from error
    except OSError as error:
        raise FormatError(f"{path} cannot be read ({error.strerror}): check the path") from error
    except (ValueError, yaml.YAMLError) as error:
        raise FormatError(f"{path} is damaged ({' '.join(str(error).split())}): fetch it again") from error
    if not isinstance(found, Mapping):
        raise FormatError(f"{path} looks like {looks_like}'s, and holds no settings by name: check the path")
    return found


def tensors_in(path: Path) -> Any:
    """Read a .safetensors, .pt or .npz file on the CPU, unpickling tensors and plain values only.

    Args:
        path: the file.

    Returns:
        Whatever it holds: tensors by name, in most formats.

    Raises:
        FormatError: the file is missing or damaged, or holds objects of other kinds.
    """
    if path.exists() and not path.is_file():
        raise FormatError(f"{path} is no file: fetch it again")
    try:
        if path.stat().st_size == 0:
            raise EOFError("it is empty")
        if path.suffix == ".safetensors":
            return load_file(path)
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                return {name: torch.from_numpy(arrays[name]) for name in arrays.files}
        return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise FormatError(f"{path} cannot be read ({error.strerror or error}): check the path") from error
    except pickle.UnpicklingError as error:
        raise FormatError(f"{path} is no state dict: it holds more than tensors and plain values") from error
    except (SafetensorError, RuntimeError, EOFError, ValueError, TypeError, LookupError, BadZipFile) as error:
        raise FormatError(f"{path} is damaged ({one_line(error)}): fetch it again") from error


def peek_settings(path: Path | None) -> Mapping[str, Any]:
    """Look at the settings of a file: for recognising a format, never for reading it.

    Args:
        path: the file, or None.

    Returns:
        The settings by name; none where it cannot be read.
    """
    try:
        return settings_in("", path) if path else {}
    except FormatError:
        return {}


def peek_names(path: Path) -> frozenset[str]:
    """Look at the names of the tensors in a file: for recognising a format, never for reading it.

    Args:
        path: a .safetensors, .npz or .pt file.

    Returns:
        The names; of a .pt file all strings that are pickled, which include them; none where it cannot be read.
    """
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                return frozenset(file.keys())
        with ZipFile(path) as archive:
            if path.suffix == ".npz":
                return frozenset(name.removesuffix(".npy") for name in archive.namelist())
            pickled = archive.read(next(name for name in archive.namelist() if name.endswith("data.pkl")))
        return frozenset(arg for _, arg, _ in pickletools.genops(pickled) if isinstance(arg, str))
    except (OSError, SafetensorError, BadZipFile, StopIteration, ValueError, LookupError):
        return frozenset()


def unsafe_globals_in(path: Path) -> list[str]:
    """List what a .pt file needs to be unpickled, and torch does not hold for safe.

    Args:
        path: the file.

    Returns:
        Classes and functions, as "module.name"; none where it cannot be read.
    """
    try:
        return torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # whatever a damaged file makes of it: reading it will say so
        return []
