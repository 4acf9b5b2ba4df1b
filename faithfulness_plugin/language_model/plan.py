"""The transcoders that a run trains, one for each block, arm and seed."""

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BeforeValidator, Field

from faithfulness_plugin.errors import UsageError
from faithfulness_plugin.results.schema import Record

ALL = "all"
RANGE = re.compile(r"\s*(\d+)(?:\s*-\s*(\d+))?\s*")


def as_blocks(given: Any) -> Any:
    """Read blocks from a text such as "all", "3" or "0,4-7"; other values are returned as they are.

    Args:
        given: the setting or the option.

    Returns:
        "all", or a list of numbers.

    Raises:
        ValueError: a text that names no blocks.
    """
    if not isinstance(given, str) or given.strip() == ALL:
        return given.strip() if isinstance(given, str) else given
    parts = [RANGE.fullmatch(part) for part in given.split(",")]
    found = [range(int(part[1]), int(part[2] or part[1]) + 1) for part in parts if part is not None]
    if len(found) < len(parts) or not all(map(len, found)):
        raise ValueError(f"{given!r} names no blocks: write all, or their numbers, as in 3 or 0,4-7")
    return [block for part in found for block in part]


def say_blocks(blocks: Sequence[int]) -> str:
    """Write numbers of blocks as `as_blocks` reads them.

    Args:
        blocks: some blocks.

    Returns:
        Such as "block 3", or "blocks 0, 4-7".

        >>> say_blocks([0, 4, 5, 6, 7])
        'blocks 0, 4-7'
    """
    runs: list[list[int]] = []
    for block in sorted(blocks):
        if runs and block == runs[-1][1] + 1:
            runs[-1][1] = block
        else:
            runs.append([block, block])
    text = ", ".join(f"{first}" if first == last else f"{first}-{last}" for first, last in runs)
    return f"block{'s' * (len(blocks) > 1)} {text}"


Blocks = Annotated[list[int] | Literal["all"], BeforeValidator(as_blocks)]
"""Numbers of blocks, or all that have an MLP."""


class ArmSettings(Record):
    """How the transcoders of one arm differ from what the run's other settings say."""

    coefficient: float = Field(default=0.0, ge=0, description="of the Jacobian term; 0 trains without it")
    skip: bool | None = Field(default=None, description="whether they have a skip connection; null as in `transcoder`")
    jacobian: dict[str, Any] = Field(
        default_factory=dict, description="fields of JacobianMatchingConfig, in place of those in `jacobian`"
    )


class PlannedTranscoder(NamedTuple):
    """One of the transcoders of a run."""

    name: str
    block: int
    coefficient: float
    seed: int
    arm: str | None = None
    """The arm's name, where the settings name arms."""


def planned(
    blocks: Sequence[int], coefficients: Sequence[float], arms: Mapping[str, ArmSettings], seeds: range
) -> Iterator[PlannedTranscoder]:
    """List every transcoder that is to be trained: blocks first, then arms, then seeds.

    Args:
        blocks: their numbers.
        coefficients: an arm each, where none are named.
        arms: the named ones.
        seeds: of weights and probes.

    Yields:
        The transcoders. What stands beside one does not change its name.
    """
    labels = [(f"coefficient{repr(c).removesuffix('.0')}", c, None) for c in coefficients]
    if arms:
        labels = [(name, arm.coefficient, name) for name, arm in arms.items()]
    for block, (label, coefficient, arm), seed in product(blocks, labels, seeds):
        name = f"block{block}_{label}" + f"_seed{seed}" * (len(seeds) > 1)
        yield PlannedTranscoder(name, block, coefficient, seed, arm)


def require_arms(arms: Mapping[str, ArmSettings], *, with_coefficients: bool) -> None:
    """Refuse arms that cannot be told apart from what else the settings or the files' names say.

    Args:
        arms: by name.
        with_coefficients: whether the settings list coefficients as well.

    Raises:
        UsageError: they do, or a name that makes no folder's name.
    """
    if arms and with_coefficients:
        raise UsageError("arms have a coefficient each: leave coefficients out, or name no arms")
    for name in arms:
        if re.fullmatch(r"[A-Za-z0-9.+-]+", name) is None:
            raise UsageError(
                f"arms: {name!r} is to be a part of a folder's name: use letters, digits, '.', '+' and '-'"
            )
