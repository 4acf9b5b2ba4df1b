"""Find the tensor with the wrong shape, where dimensions have names."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from faithfulness_plugin.transcoders.formats.errors import FormatError, Where

Sizes = Mapping[str, tuple[Any, str]]
"""Sizes that settings state, by dimension: the value, and what the setting is called."""
Claim = list[tuple[str, int]]
"""The sizes that a tensor or a setting gives to dimensions."""


def require_shapes(where: Where, tensors: Mapping[str, Tensor], shapes: Mapping[str, str], stated: Sizes) -> None:
    """Check shapes that are written as names of dimensions, or numbers: {"W_enc": "d_in d_sae", "norm": "1", "k": ""}.

    The one tensor or setting without which all others agree is the culprit. A square matrix that stands transposed has
    the right shape, and is not noticed.

    Args:
        where: what messages call the file.
        tensors: the tensors by name.
        shapes: their shapes by name.
        stated: the sizes that settings state, by dimension.

    Raises:
        FormatError: naming the culprit, or all that disagree where there is not exactly one.
    """
    claims: defaultdict[str, Claim] = defaultdict(list)
    for dimension, (size, called) in stated.items():
        claims[called].append((dimension, size))
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise FormatError(f"{where}: {called} is {size!r}, and a whole number above 0 is needed")
    says = {called: f"{called} is {size}" for size, called in stated.values()}
    for name, tensor in tensors.items():
        dimensions, says[name] = shapes[name].split(), f"{name} has shape {list(tensor.shape)}"
        if tensor.ndim != len(dimensions):
            kind = ("one number", "a vector", "a matrix", "three dimensions")[len(dimensions)]
            raise FormatError(f"{where}: {says[name]}, and {kind} is needed")
        claims[name] = list(zip(dimensions, tensor.shape, strict=True))
        if any(dimension.isdigit() and int(dimension) != size for dimension, size in claims[name]):
            raise FormatError(f"{where}: {says[name]}, and [{', '.join(dimensions)}] is needed")
    if not (disputed := _disputed(claims.values())):
        return
    for name in tensors:
        claim = claims[name]
        turned = [(dimension, size) for (dimension, _), (_, size) in zip(claim, claim[::-1], strict=True)]
        if len(claim) == 2 and not _disputed({**claims, name: turned}.values()):
            fits = [size for _, size in turned]
            raise FormatError(f"{where}: {says[name]}, and by all else it should have {fits}: it is transposed")
    others = {name: [claims[other] for other in claims if other != name] for name in claims}
    culprits = [name for name in claims if not _disputed(others[name])]
    if len(culprits) != 1:
        each = ", ".join(says[name] for name, claim in claims.items() if disputed[0] in dict(claim))
        raise FormatError(f"{where}: {each}: they disagree on {disputed[0]}")
    right = {dimension: size for claim in others[culprits[0]] for dimension, size in claim}
    fits = [str(right.get(dimension, dimension)) for dimension, _ in claims[culprits[0]]]
    wanted = (
        f"by all else it should have [{', '.join(fits)}]" if culprits[0] in tensors else f"the weights say {fits[0]}"
    )
    raise FormatError(f"{where}: {says[culprits[0]]}, and {wanted}")


def _disputed(claims: Iterable[Claim]) -> list[str]:
    """Find the dimensions that are given several sizes."""
    sizes: defaultdict[str, set[int]] = defaultdict(set)
    for claim in claims:
        for dimension, size in claim:
            sizes[dimension].add(size)
    return [dimension for dimension, given in sizes.items() if len(given) > 1]
