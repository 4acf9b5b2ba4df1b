"""Opening the files of a format, and looking into them without reading weights."""

import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

import numpy as np
import torch
import yaml
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from faithfulness_plugin.transcoders.formats.rule import FormatError


def settings_in(looks_like: str, path: Path) -> Any:
    """The settings of a JSON or YAML file. Raises FormatError where it is missing, damaged, or holds no names."""
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
        said = " ".join(str(error).split())
        raise FormatError(f"{path} is damaged ({said}): fetch it again") from error
    if not isinstance(found, Mapping):
        raise FormatError(f"{path} looks like {looks_like}'s, and holds no settings by name: check the path")
    return found


def tensors_in(path: Path) -> Any:
    """What a .safetensors, .pt or .npz file holds, on the CPU; only tensors and plain values are ever unpickled.
    Raises FormatError where the file is missing or damaged."""
    try:
        if path.stat().st_size == 0 or not path.is_file():
            raise FormatError(f"{path} is {'empty' if path.is_file() else 'no file'}: fetch it again")
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
        said = next(iter(str(error).splitlines()), type(error).__name__)
        raise FormatError(f"{path} is damaged ({said}): fetch it again") from error


def peek_settings(path: Path) -> Mapping[str, Any]:
    """The settings of a file, and none where it cannot be read: for looking, never for reading."""
    try:
        return settings_in("", path)
    except FormatError:
        return {}


def peek_names(path: Path) -> frozenset[str]:
    """The names of the tensors in a .safetensors or .npz file, and none where it cannot be read."""
    try:
        if path.suffix == ".npz":
            with ZipFile(path) as arrays:
                return frozenset(name.removesuffix(".npy") for name in arrays.namelist())
        with safe_open(path, framework="pt") as file:
            return frozenset(file.keys())
    except (OSError, SafetensorError, BadZipFile):
        return frozenset()
