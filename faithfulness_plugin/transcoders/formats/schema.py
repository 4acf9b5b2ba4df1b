"""The rule of the loader: a format declares the settings and tensors that it reads; all others are refused by name."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from faithfulness_plugin.messages import listed
from faithfulness_plugin.transcoders.formats.errors import FormatError, Where
from faithfulness_plugin.transcoders.formats.shapes import Sizes, require_shapes

PARTS = {
    "W_enc": "d_in d_sae",
    "b_enc": "d_sae",
    "W_dec": "d_sae d_out",
    "b_dec": "d_out",
    "W_skip": "d_out d_in",
    "threshold": "d_sae",
    "post_enc": "d_sae",
}
"""The weights of a transcoder by SAELens's names, and their shapes there."""
YES_OR_NO = (True, False)
"""The values of a setting that is true or false."""


def require_keys(looks_like: str, where: Where, found: Any, *names: str) -> None:
    """Check that something maps names to values, certain names among them.

    Args:
        looks_like: the format's title, for messages.
        where: what messages call the file.
        found: what it holds.
        names: the names that it has to have.

    Raises:
        FormatError: it is no mapping, or lacks some.
    """
    if not isinstance(found, Mapping):
        raise FormatError(f"{where} looks like {looks_like}'s, and holds a {type(found).__name__}, no values by name")
    if lacks := [name for name in names if name not in found]:
        has = listed(sorted(map(str, found)), 12)
        raise FormatError(
            f"{where} looks like {looks_like}, and lacks {', '.join(lacks)} (it has {has}): "
            "save it again with that library, or check the path"
        )


def _refuse_unknown(kind: str, looks_like: str, where: Where, found: Iterable[Any], known: set[str], cure: str) -> None:
    if unknown := sorted(str(name) for name in found if name not in known):
        raise FormatError(
            f"{where} has the {kind}{'s' * (len(unknown) > 1)} {listed(unknown, 12)}, which {looks_like} is not known "
            f"to have and which may change the function: read it with the library that wrote it{cure}"
        )


@dataclass(frozen=True)
class Settings:
    """The settings of a format, as names with spaces between. All others are refused."""

    needs: str = ""
    """Settings that are read and have to be there."""
    reads: str = ""
    """Settings that are read where they are there."""
    only: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    """The values that a setting may have, where it is there."""
    harmless: str = ""
    """Settings without influence on the function: of training, of provenance."""
    sizes: Mapping[str, str] = field(default_factory=dict)
    """The settings that state the size of a dimension, by dimension: {"d_sae": "num_latents"}. Unless they are needed,
    null says that it is not stated."""
    zero_is_unstated: str = ""
    """The settings among them for which the library writes 0 for a size that it works out."""

    def check(self, looks_like: str, where: Where, found: Any) -> Mapping[str, Any]:
        """Check the settings of a file.

        Args:
            looks_like: the format's title, for messages.
            where: what messages call the file.
            found: what it holds.

        Returns:
            The settings themselves.

        Raises:
            FormatError: naming what is missing, unknown, or has another value.
        """
        needs = self.needs.split()
        require_keys(looks_like, where, found, *needs)
        if empty := [name for name in needs if found[name] is None]:
            raise FormatError(f"{where} says {', '.join(empty)}: null, and {looks_like} needs a value there: add it")
        known = {*needs, *self.reads.split(), *self.only, *self.harmless.split(), *self.sizes.values()}
        _refuse_unknown("setting", looks_like, where, found, known, ", or take out what has no influence there")
        for name, values in self.only.items():
            # True == 1 and 0 == False in Python, and "1" is no number
            if name in found and (type(found[name]), found[name]) not in [(type(value), value) for value in values]:
                raise FormatError(
                    f"{where} says {name}: {found[name]!r}, which may change the function and is not read here; only "
                    f"{' or '.join(map(repr, values))} is"
                )
        return found

    def stated_sizes(self, found: Mapping[str, Any], where: Where) -> Sizes:
        """Return the sizes that settings state.

        Args:
            found: the settings, checked.
            where: what messages call the file.

        Returns:
            By dimension, each size with what messages call the setting.
        """
        file = where.name if isinstance(where, Path) else where
        return {
            dimension: (found[name], f"{name} in {file}")
            for dimension, name in self.sizes.items()
            if name in found and (name in self.needs.split() or not self._is_unstated(name, found[name]))
        }

    def _is_unstated(self, name: str, value: Any) -> bool:
        return value is None or (value == 0 and name in self.zero_is_unstated.split())


@dataclass(frozen=True)
class Tensors:
    """The tensors of a format, with their shapes as names of dimensions: {"W_enc": "d_in d_sae", "k": ""}; "d" where
    input and output are equally wide. All others are refused."""

    needs: Mapping[str, str]
    """Tensors that are read and have to be there."""
    reads: Mapping[str, str] = field(default_factory=dict)
    """Tensors that are read where they are there."""
    harmless: tuple[str, ...] = ()
    """Tensors without influence on the function: counters of training."""
    whole: tuple[str, ...] = ()
    """Tensors that hold whole numbers, such as k. All others hold real ones in floating point."""
    names: Mapping[str, str] = field(default_factory=dict)
    """The names here of the parts of a transcoder: {"W_enc": "encoder.weight"}; SAELens's names need no entry."""

    @property
    def shapes(self) -> dict[str, str]:
        """The shapes of all tensors that are read, by name."""
        return {**self.needs, **self.reads}

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
        """Check the tensors of a file, and convert those that are read.

        Args:
            looks_like: the format's title, for messages.
            where: what messages call the file.
            found: what it holds.
            sizes: dimensions whose size a setting states: {"d_in": (64, "d_in in cfg.json")}.
            device: where the tensors go.
            dtype: what floating-point weights are converted to; None keeps the file's.

        Returns:
            The tensors that are read, by name, on the device and of the dtype.

        Raises:
            FormatError: naming a tensor that is missing, unknown, transposed, of another size, not finite, or of a type
                that holds no weights (int8, as quantised weights are, whose scale is not known here).
        """
        require_keys(looks_like, where, found, *self.needs)
        shapes = self.shapes
        _refuse_unknown("tensor", looks_like, where, found, {*shapes, *self.harmless}, "")
        tensors = {name: found[name] for name in shapes if name in found}
        for name, tensor in tensors.items():
            if not isinstance(tensor, Tensor):
                raise FormatError(f"{where}: {name} is a {type(tensor).__name__}, and a tensor is needed")
            _require_numbers(where, name, tensor, whole=name in self.whole)
        require_shapes(where, tensors, shapes, sizes or {})
        return {name: _converted(where, name, tensor, device, dtype) for name, tensor in tensors.items()}

    def parts(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Find the parts of a transcoder among the weights, and transpose those that are stored the other way round.

        Args:
            weights: what `check` returned.

        Returns:
            The parts by SAELens's names, and in its shapes.
        """
        found = {}
        for part, wanted in PARTS.items():
            name = self.names.get(part, part)
            if name in weights:
                stored, usual = self.shapes[name].split(), wanted.split()
                transposed = len(stored) == 2 and (stored[0] == usual[1] or stored[1] == usual[0])
                found[part] = weights[name].mT if transposed else weights[name]
        return found


def require_finite(where: Where, name: str, tensor: Tensor) -> None:
    """Check a tensor for NaN and infinite values.

    Args:
        where: what messages call its file.
        name: the tensor's name.
        tensor: the tensor.

    Raises:
        FormatError: some values are, with their number.
    """
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
    """Raise FormatError where a tensor does not hold the kind of numbers that it should."""
    dtype = str(tensor.dtype).removeprefix("torch.")
    if not whole and not tensor.is_floating_point():
        raise FormatError(
            f"{where}: {name} is of type {dtype}, and weights in floating point are needed: save it as it is computed "
            "with (quantised weights times their scale)"
        )
    if whole and (tensor.dtype is torch.bool or tensor.is_complex() or not tensor.double().frac().eq(0).all()):
        raise FormatError(f"{where}: {name} is {tensor.tolist()} of type {dtype}, and whole numbers are needed")


def _converted(where: Where, name: str, tensor: Tensor, device: str, dtype: torch.dtype | None) -> Tensor:
    require_finite(where, name, tensor)
    if dtype is None or not tensor.is_floating_point():
        return tensor.to(device)
    converted = tensor.to(device, dtype)
    if not converted.isfinite().all():
        raise FormatError(f"{where}: {name} has values that are too large for {dtype}: pass dtype=None")
    return converted
