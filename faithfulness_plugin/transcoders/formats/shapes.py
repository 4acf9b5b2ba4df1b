"""Find the tensor with the wrong shape, where dimensions have names."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from faithfulness_plugin.transcoders.formats.errors import FormatError, Where

Sizes = Mapping[str, tuple[Any, str]]
"""Sizes that settings state, by dimension: the value, and what the setting is called."""
Votes = dict[str, dict[str, int]]
"""By dimension: the size that each tensor and setting gives it."""


def require_shapes(where: Where, tensors: Mapping[str, Tensor], shapes: Mapping[str, str], sizes: Sizes) -> None:
    """Checks shapes that are written as names of dimensions: {"W_enc": "d_in d_sae", "k": ""}.

    A dimension has the size that most tensors and settings give it; where they are even, those count that contradict
    nothing else. A square matrix that stands transposed has the right shape, and cannot be told.

    Raises:
        FormatError: naming the tensor or setting whose size the others contradict.
    """
    votes = _votes(where, tensors, shapes, sizes)
    right = {dimension: size for dimension, said in votes.items() if (size := _majority(said)) is not None}

    def contradictions(name: str) -> int:
        pairs = zip(shapes[name].split(), tensors[name].shape, strict=True)
        return sum(right.get(dimension, size) != size for dimension, size in pairs)

    suspects = {name for name in tensors if contradictions(name)}
    for dimension in votes.keys() - right.keys():
        size = _majority({name: size for name, size in votes[dimension].items() if name not in suspects})
        if size is None:
            each = ", ".join(f"{name} {_says(name, size, tensors)}" for name, size in votes[dimension].items())
            raise FormatError(f"{where}: {each}: they disagree on {dimension}")
        right[dimension] = size
    wrong = {name: count for name in tensors if (count := contradictions(name))}
    if wrong:
        name = max(wrong, key=lambda name: wrong[name])
        wanted = _wanted(name, tensors[name], shapes[name].split(), votes, right)
        raise FormatError(
            f"{where}: {name} has shape {list(tensors[name].shape)}, and by all else it should have {wanted}"
        )
    for dimension, (size, called) in sizes.items():
        if size != right[dimension]:
            raise FormatError(f"{where}: {called} is {size}, and the weights say {right[dimension]}")


def _votes(where: Where, tensors: Mapping[str, Tensor], shapes: Mapping[str, str], sizes: Sizes) -> Votes:
    votes: Votes = {}
    for dimension, (size, called) in sizes.items():
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise FormatError(f"{where}: {called} is {size!r}, and a whole number above 0 is needed")
        votes[dimension] = {called: size}
    for name, tensor in tensors.items():
        dimensions = shapes[name].split()
        if tensor.ndim != len(dimensions):
            kind = {0: "one number", 1: "a vector", 2: "a matrix"}.get(len(dimensions), f"{len(dimensions)} dimensions")
            raise FormatError(f"{where}: {name} has shape {list(tensor.shape)}, and {kind} is needed")
        for dimension, size in zip(dimensions, tensor.shape, strict=True):
            # a matrix that has a dimension twice votes once
            votes.setdefault(dimension, {}).setdefault(name, size)
    return votes


def _majority(said: Mapping[str, int]) -> int | None:
    """The size that most say; None where two are said as often."""
    first, *others = Counter(said.values()).most_common(2) or [(None, 0)]
    return None if others and others[0][1] == first[1] else first[0]


def _wanted(name: str, tensor: Tensor, dimensions: list[str], votes: Votes, right: Mapping[str, int]) -> str:
    """The shape that fits. A dimension that nothing else has may be of any size, and is given by its name, unless the
    sizes fit the other way round."""
    shape = list(tensor.shape)
    alone = [set(votes[dimension]) == {name} for dimension in dimensions]
    if len(shape) == 2 and all(a or right[d] == n for a, d, n in zip(alone, dimensions, shape[::-1], strict=True)):
        return f"{shape[::-1]}: it stands transposed"
    fits = [dimension if a else str(right[dimension]) for a, dimension in zip(alone, dimensions, strict=True)]
    return f"[{', '.join(fits)}]"


def _says(name: str, size: int, tensors: Mapping[str, Tensor]) -> str:
    return f"has shape {list(tensors[name].shape)}" if name in tensors else f"is {size}"
