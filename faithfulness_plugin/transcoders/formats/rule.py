"""The rule of the loader: a format names the tensors and settings that it reads, and all others are refused by name."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


class FormatError(ValueError):
    """What looked like a library's transcoder cannot be read as one."""


Where = Path | str
"""The file that a message speaks of."""
Sizes = Mapping[str, tuple[Any, str]]
"""Sizes that settings state, by dimension: the value, and what the setting is called."""


def require_keys(looks_like: str, where: Where, found: Mapping[str, Any], *names: str) -> None:
    """Raises FormatError where some are missing, with what the file looked like."""
    if not isinstance(found, Mapping):
        raise FormatError(f"{where} looks like {looks_like}'s, and holds a {type(found).__name__}, no values by name")
    if lacks := [name for name in names if name not in found]:
        raise FormatError(
            f"{where} looks like {looks_like}, and lacks {', '.join(lacks)} (it has {_listed(map(str, found))}): "
            "save it again with that library, or check the path"
        )


@dataclass(frozen=True)
class Settings:
    """The settings of a format. Those that are named nowhere here are refused."""

    needs: tuple[str, ...] = ()
    """Read, and an error where they are missing."""
    reads: tuple[str, ...] = ()
    """Read where they are there."""
    only: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    """Settings that may have these values alone, which leave the function as it is read."""
    harmless: tuple[str, ...] = ()
    """Settings without influence on the function: of training, of provenance."""

    def check(self, looks_like: str, where: Where, found: Any) -> Mapping[str, Any]:
        """The settings as they are. Raises FormatError, naming what is missing, unknown, or has another value."""
        require_keys(looks_like, where, found, *self.needs)
        known = {*self.needs, *self.reads, *self.only, *self.harmless}
        if unknown := [str(name) for name in found if name not in known]:
            raise FormatError(
                f"{where} has the setting{'s' * (len(unknown) > 1)} {_listed(unknown)}, which {looks_like} is not "
                "known to have and which may change the function: read it with the library that wrote it, or take out "
                "what has no influence there"
            )
        for name, values in self.only.items():
            # True == 1 and 0 == False in Python, and "1" is no number
            if name in found and not any(
                found[name] is v or (type(found[name]) is type(v) and found[name] == v) for v in values
            ):
                raise FormatError(
                    f"{where} says {name}: {found[name]!r}, which changes the function and is not read here; only "
                    f"{' or '.join(map(repr, values))} is"
                )
        return found


@dataclass(frozen=True)
class Tensors:
    """The tensors of a format, with their shapes as names of dimensions: {"W_enc": "d_in d_sae", "k": ""}. Those that
    are named nowhere here are refused."""

    needs: Mapping[str, str]
    """Read, and an error where they are missing."""
    reads: Mapping[str, str] = field(default_factory=dict)
    """Read where they are there."""
    harmless: tuple[str, ...] = ()
    """Tensors without influence on the function: counters of training."""

    def check(
        self,
        looks_like: str,
        where: Where,
        found: Any,
        *,
        sizes: Sizes | None = None,
        device: str = "cpu",
        dtype: torch.dtype | None = None,
    ) -> dict[str, Tensor]:
        """The tensors that are read, by name, on the device and of the dtype.

        Args:
            sizes: dimensions whose size a setting states: {"d_in": (64, "d_in in cfg.json")}.
            dtype: what floating-point weights are converted to; None keeps the file's.

        Raises:
            FormatError: naming a tensor that is missing, unknown, transposed, of another size, or not finite.
        """
        require_keys(looks_like, where, found, *self.needs)
        shapes = {**self.needs, **self.reads}
        if unknown := [str(name) for name in found if name not in shapes and name not in self.harmless]:
            raise FormatError(
                f"{where} has the tensor{'s' * (len(unknown) > 1)} {_listed(unknown)}, which {looks_like} is not known "
                "to have and which may change the function: read it with the library that wrote it"
            )
        tensors = {name: found[name] for name in shapes if name in found}
        for name, tensor in tensors.items():
            if not isinstance(tensor, Tensor):
                raise FormatError(f"{where}: {name} is a {type(tensor).__name__}, and a tensor is needed")
        require_shapes(where, tensors, shapes, sizes or {})
        return {name: _converted(where, name, tensor, device, dtype) for name, tensor in tensors.items()}


def require_shapes(where: Where, tensors: Mapping[str, Tensor], shapes: Mapping[str, str], sizes: Sizes) -> None:
    """Raises FormatError, naming the tensor or setting whose sizes the others contradict.

    A dimension has the size that most tensors and settings give it. A square matrix that stands transposed has the
    right shape, and cannot be told.
    """
    for dimension, (size, called) in sizes.items():
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise FormatError(f"{where}: {called} is {size!r}, and a whole number above 0 is needed ({dimension})")
    votes: dict[str, dict[str, int]] = {dimension: {called: size} for dimension, (size, called) in sizes.items()}
    for name, tensor in tensors.items():
        dimensions = shapes[name].split()
        if tensor.ndim != len(dimensions):
            kind = {0: "one number", 1: "a vector", 2: "a matrix"}.get(len(dimensions), f"{len(dimensions)} dimensions")
            raise FormatError(f"{where}: {name} has shape {list(tensor.shape)}, and {kind} is needed")
        for dimension, size in zip(dimensions, tensor.shape, strict=True):
            # a matrix with one dimension twice votes once
            votes.setdefault(dimension, {}).setdefault(name, size)
    right = {dimension: Counter(said.values()).most_common(1)[0][0] for dimension, said in votes.items()}
    wrong = {
        name: sum(size != right[d] for d, size in zip(shapes[name].split(), tensor.shape, strict=True))
        for name, tensor in tensors.items()
    }
    for dimension, said in votes.items():
        counted = Counter(said.values()).most_common(2)
        suspects = {name: size for name, size in said.items() if size != right[dimension]}
        tie = len(counted) > 1 and counted[0][1] == counted[1][1]
        if tie and all(wrong.get(name, 0) < 2 for name in said):
            each = ", ".join(f"{name} {_says(name, size, tensors)}" for name, size in said.items())
            raise FormatError(f"{where}: {each}: they disagree on {dimension}")
        if suspects and not any(name in tensors for name in suspects):
            name, size = next(iter(suspects.items()))
            raise FormatError(f"{where}: {name} is {size}, and the weights say {right[dimension]}")
    if any(wrong.values()):
        name = max(wrong, key=lambda name: wrong[name])
        shape, dimensions = list(tensors[name].shape), shapes[name].split()
        # a dimension that no other weight has may be of any size, unless the sizes fit the other way round
        free = [set(votes[dimension]) == {name} for dimension in dimensions]
        transposed = len(shape) == 2 and all(
            alone or right[dimension] == size
            for alone, dimension, size in zip(free, dimensions, shape[::-1], strict=True)
        )
        fits = (
            shape[::-1] if transposed else [d if alone else right[d] for alone, d in zip(free, dimensions, strict=True)]
        )
        wanted = f"[{', '.join(map(str, fits))}]" + ": it stands transposed" * transposed
        raise FormatError(f"{where}: {name} has shape {shape}, and by all else it should have {wanted}")


def require_finite(where: Where, name: str, tensor: Tensor) -> None:
    """Raises FormatError where some values are NaN or infinite, with their number."""
    if not (tensor.is_floating_point() or tensor.is_complex()):
        return
    # float8 knows no isfinite
    values = tensor.float() if tensor.element_size() == 1 else tensor
    if (n_bad := int((~values.isfinite()).sum())) > 0:
        raise FormatError(
            f"{where}: {name} has {n_bad} of {tensor.numel()} values that are NaN or infinite: fetch the file "
            "again, or train the transcoder again"
        )


def _converted(where: Where, name: str, tensor: Tensor, device: str, dtype: torch.dtype | None) -> Tensor:
    require_finite(where, name, tensor)
    if dtype is None or not tensor.is_floating_point():
        return tensor.to(device)
    converted = tensor.to(device, dtype)
    if not converted.isfinite().all():
        raise FormatError(f"{where}: {name} has values that are too large for {dtype}: pass dtype=None")
    return converted


def _says(name: str, size: int, tensors: Mapping[str, Tensor]) -> str:
    return f"has shape {list(tensors[name].shape)}" if name in tensors else f"is {size}"


def _listed(names: Iterable[str], most: int = 12) -> str:
    names = sorted(names)
    return ", ".join(names[:most]) + ", ..." * (len(names) > most)
