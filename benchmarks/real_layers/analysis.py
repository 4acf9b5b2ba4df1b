"""What the runs say: errors relative to the layer, gains over no term, with intervals over held-out prompts."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from faithfulness_plugin.benchmarks.real_layers.arms import Arm, Kind
from faithfulness_plugin.benchmarks.real_layers.schema import RealLayersResult, Trained
from faithfulness_plugin.measure.bootstrap import bootstrap, ratio
from faithfulness_plugin.measure.held_out_schema import ByPrompt, Directions
from faithfulness_plugin.results.schema import Interval

HALF_WAY = 0.5

NONE = Arm()
"""No term."""

Parts = tuple[ByPrompt, ByPrompt]
"""What a relative error divides by what, prompt by prompt."""
Read = Callable[[RealLayersResult, Trained], Parts]


def fvu(result: RealLayersResult, trained: Trained) -> Parts:
    """||t - f||^2 by ||f - E f||^2."""
    return trained.error, result.layer(trained.block).variance


def jacobian_error(directions: Directions) -> Read:
    """||(J_t - J_f) R||^2 by ||J_f R||^2."""
    return lambda result, t: (t.jacobian_error[directions], result.layer(t.block).jacobian[directions])


def jacobian_floor(directions: Directions) -> Read:
    """What no transcoder with as many active features gets below, by ||J_f R||^2."""
    return lambda result, t: (t.floor[directions], result.layer(t.block).jacobian[directions])


def response_error(directions: Directions, distance: float = HALF_WAY) -> Read:
    """||D_t - D_f||^2 by ||D_f||^2 of steps of that length."""

    def read(result: RealLayersResult, trained: Trained) -> Parts:
        at = result.config.distances.index(distance)
        return trained.response_error[directions][at], result.layer(trained.block).response[directions][at]

    return read


def value(result: RealLayersResult, trained: Trained, read: Read) -> float:
    """The relative error: a ratio of means."""
    parts, whole = read(result, trained)
    return sum(parts) / sum(whole)


def over_prompts(result: RealLayersResult, of: Sequence[Trained], read: Read) -> Interval:
    """The mean over seeds, with its 95 % interval over held-out prompts and seeds (bootstrap, prompts as a whole)."""
    return bootstrap([np.array(read(result, t)) for t in of], lambda sums: ratio(sums).mean(-1))


class Gain(NamedTuple):
    """What an arm changes against no term; the same prompts and seeds on both sides. Negative: less error."""

    change: Interval
    """Of the error, as a part of what it was."""
    of_distance: Interval | None
    """How much of the distance to the floor is gone, where there is a floor below the error without a term."""


def gain(
    result: RealLayersResult,
    arm: Sequence[Trained],
    baseline: Sequence[Trained],
    read: Read,
    floor: Directions | None = None,
) -> Gain:
    """Of an arm over another, seed by seed (bootstrap over prompts and seeds, paired).

    Args:
        floor: directions whose floor (the baseline's) the distance is reckoned to.
    """
    least = read if floor is None else jacobian_floor(floor)
    pairs = [np.array([*read(result, a), *read(result, b), *least(result, b)]) for a, b in _by_seed(arm, baseline)]

    def change(sums: np.ndarray) -> np.ndarray:
        ours, theirs = ratio(sums[..., :2]).mean(-1), ratio(sums[..., 2:4]).mean(-1)
        return (ours - theirs) / theirs

    if floor is None:
        return Gain(bootstrap(pairs, change), None)

    def of_distance(sums: np.ndarray) -> np.ndarray:
        ours, theirs, lowest = (ratio(sums[..., i : i + 2]).mean(-1) for i in (0, 2, 4))
        distance = np.where(theirs > lowest, theirs - lowest, np.nan)
        return (theirs - ours) / distance

    there_is = np.isfinite(of_distance(np.stack(pairs).sum(-1)[None])).all()
    return Gain(bootstrap(pairs, change), bootstrap(pairs, of_distance) if there_is else None)


def of_arm(result: RealLayersResult, block: int, kind: Kind, arm: Arm, *, repeated: bool = False) -> list[Trained]:
    """Its runs, by seed."""
    found = [t for t in result.trained if (t.block, t.kind, t.arm, t.repeated) == (block, kind, arm, repeated)]
    return sorted(found, key=lambda t: t.seed)


def gain_in(
    result: RealLayersResult, block: int, kind: Kind, arm: Arm, read: Read, floor: Directions | None = None
) -> Gain:
    """Of an arm over no term."""
    return gain(result, of_arm(result, block, kind, arm), of_arm(result, block, kind, NONE), read, floor)


def value_of(result: RealLayersResult, block: int, kind: Kind, arm: Arm, read: Read) -> float:
    """The mean over seeds."""
    return float(np.mean([value(result, t, read) for t in of_arm(result, block, kind, arm)]))


def groups_of(result: RealLayersResult) -> list[tuple[int, Kind]]:
    """The blocks and kinds of transcoder that have runs."""
    return [
        (block, kind)
        for block in result.config.blocks
        for kind in [*result.config.kinds, *result.config.line]
        if of_arm(result, block, kind, NONE)
    ]


def arms_of(result: RealLayersResult, block: int, kind: Kind, *, repeated: bool = False) -> list[Arm]:
    """The arms that have runs there, in the order of the settings."""
    arms = [*result.config.arms, *(result.config.passage.arms if result.config.passage is not None else ())]
    return [arm for arm in dict.fromkeys(arms) if of_arm(result, block, kind, arm, repeated=repeated)]


def matched_arms(result: RealLayersResult, block: int, kind: Kind) -> list[Arm]:
    """The arms beside no term."""
    return [arm for arm in arms_of(result, block, kind) if arm != NONE]


def _by_seed(arm: Sequence[Trained], baseline: Sequence[Trained]) -> list[tuple[Trained, Trained]]:
    of_seed = {t.seed: t for t in baseline}
    return [(t, of_seed[t.seed]) for t in arm if t.seed in of_seed]
