"""The rule of the loader: a format names the tensors and settings that it reads, and all others are refused by name."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from faithfulness_plugin.transcoders.formats.errors import FormatError, Where
from faithfulness_plugin.transcoders.formats.shapes import Sizes, require_shapes

__all__ = ["FormatError", "Settings", "Tensors", "Where", "require_finite", "require_keys", "require_shapes"]


def require_keys(looks_like: str, where: Where, found: Mapping[str, Any], *names: str) -> None:
    """Raises FormatError where some are missing, with what the file looked like."""
    if not isinstance(found, Mapping):
        raise FormatError(f"{where} looks like {looks_like}'s, and holds a {type(found).__name__}, no values by name")
    if lacks := [name for name in names if name not in found]:
        raise FormatError(
            f"{where} looks like {looks_like}, and lacks {', '.join(lacks)} (it has {_listed(map(str, found))}): "
            "save it again with that library, or check the path"
        )


YES_OR_NO = (True, False)
"""The values of a setting that is read as one or the other."""


@dataclass(frozen=True)
class Settings:
    """The settings of a format. Those that are named nowhere here are refused."""

    needs: tuple[str, ...] = ()
    """Read, and an error where they are missing."""
    reads: tuple[str, ...] = ()
    """Read where they are there."""
    only: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    """Settings that may have these values alone, where they are there."""
    harmless: tuple[str, ...] = ()
    """Settings without influence on the function: of training, of provenance."""

    def check(self, looks_like: str, where: Where, found: Any) -> Mapping[str, Any]:
        """The settings as they are. Raises FormatError, naming what is missing, unknown, or has another value."""
        require_keys(looks_like, where, found, *self.needs)
        if empty := [name for name in self.needs if found[name] is None]:
            raise FormatError(f"{where} says {', '.join(empty)}: null, and {looks_like} needs a value there: add it")
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
                    f"{where} says {name}: {found[name]!r}, which may change the function and is not read here; only "
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
    whole: tuple[str, ...] = ()
    """The tensors that hold whole numbers, such as k. All others hold real ones in floating point."""

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
            FormatError: naming a tensor that is missing, unknown, transposed, of another size, not finite, or of a type
                that holds no weights (int8, as quantised weights are, whose scale is not known here).
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
            _require_numbers(where, name, tensor, whole=name in self.whole)
        require_shapes(where, tensors, shapes, sizes or {})
        return {name: _converted(where, name, tensor, device, dtype) for name, tensor in tensors.items()}


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


def _require_numbers(where: Where, name: str, tensor: Tensor, *, whole: bool) -> None:
    """Raises FormatError where a tensor does not hold the kind of numbers that it should."""
    said = str(tensor.dtype).removeprefix("torch.")
    if not whole and not tensor.is_floating_point():
        raise FormatError(
            f"{where}: {name} is of type {said}, and weights in floating point are needed: save it as it is computed "
            "with (quantised weights times their scale)"
        )
    if whole and (tensor.dtype is torch.bool or tensor.is_complex() or not tensor.double().frac().eq(0).all()):
        raise FormatError(f"{where}: {name} is {tensor.tolist()} of type {said}, and whole numbers are needed")


def _converted(where: Where, name: str, tensor: Tensor, device: str, dtype: torch.dtype | None) -> Tensor:
    require_finite(where, name, tensor)
    if dtype is None or not tensor.is_floating_point():
        return tensor.to(device)
    converted = tensor.to(device, dtype)
    if not converted.isfinite().all():
        raise FormatError(f"{where}: {name} has values that are too large for {dtype}: pass dtype=None")
    return converted


def _listed(names: Iterable[str], most: int = 12) -> str:
    names = sorted(names)
    return ", ".join(names[:most]) + ", ..." * (len(names) > most)
