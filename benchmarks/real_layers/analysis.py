"""Errors relative to the layer, and gains over no term, with intervals over held-out prompts."""

from collections.abc import Sequence
from itertools import product
from typing import NamedTuple

import numpy as np

from faithfulness_plugin.benchmarks.real_layers.arms import NONE, SKIP, Arm
from faithfulness_plugin.benchmarks.real_layers.kinds import Kind
from faithfulness_plugin.benchmarks.real_layers.schema import FloorOf, RealLayersResult, RunRecord
from faithfulness_plugin.measure.relative_errors import (
    Parts,
    RelativeError,
    jacobian_floor,
    over_prompts,
    ratio,
)
from faithfulness_plugin.measure.schema import HeldOutRecord, LayerRecord
from faithfulness_plugin.metrics.result import Directions
from faithfulness_plugin.results.hierarchical_bootstrap import hierarchical_bootstrap
from faithfulness_plugin.results.schema import Interval


class Gain(NamedTuple):
    """What an arm changes against no term; the same prompts and seeds on both sides. Negative: less error."""

    change: Interval
    """The change of the error, relative to the error without a term."""
    of_distance: Interval | None
    """The share of the distance to the floor that is gone, where the floor is below the error without a term."""


def value(result: RealLayersResult, run: RunRecord, error: RelativeError) -> float:
    """Compute a relative error, a ratio of means.

    Args:
        result: has the layers' denominators.
        run: the transcoder.
        error: which error.

    Returns:
        The error.
    """
    parts, whole = _parts(result, run, error)
    return sum(parts) / sum(whole)


def gain(
    result: RealLayersResult,
    arm: Sequence[RunRecord],
    baseline: Sequence[RunRecord],
    error: RelativeError,
    floor: Directions | None = None,
) -> Gain:
    """Compare an arm with another seed by seed (bootstrap over prompts and seeds, paired).

    Args:
        result: has the layers' denominators.
        arm: its runs.
        baseline: the other one's runs.
        error: which error.
        floor: directions of the floor (the baseline's) that distances are taken to; None takes none.

    Returns:
        The relative change, and the share of the distance to the floor that is gone.
    """
    least = error if floor is None else jacobian_floor(floor)
    pairs = []
    for run, other in _paired(arm, baseline):
        each = ((run, error), (other, error), (other, least))
        # [6, prompts]: numerator and denominator of ours, theirs and the floor
        pairs.append(np.array([part for of, read in each for part in _parts(result, of, read)]))

    def change(sums: np.ndarray) -> np.ndarray:
        # sums [..., seeds, 6] -> ratios [..., seeds] -> means [...]
        ours, theirs = ratio(sums[..., :2]).mean(-1), ratio(sums[..., 2:4]).mean(-1)
        return (ours - theirs) / theirs

    if floor is None:
        return Gain(hierarchical_bootstrap(pairs, change), None)

    def of_distance(sums: np.ndarray) -> np.ndarray:
        ours, theirs, lowest = (ratio(sums[..., i : i + 2]).mean(-1) for i in (0, 2, 4))
        # NaN where the error is below the floor: `bootstrap` leaves such draws out
        distance = np.where(theirs > lowest, theirs - lowest, np.nan)
        return (theirs - ours) / distance

    # the seeds stacked, [seeds, 6, prompts], and summed over all prompts: a single draw [1, seeds, 6]
    defined = np.isfinite(of_distance(np.stack(pairs).sum(-1)[None])).all()
    return Gain(hierarchical_bootstrap(pairs, change), hierarchical_bootstrap(pairs, of_distance) if defined else None)


def difference(
    result: RealLayersResult, arm: Sequence[RunRecord], baseline: Sequence[RunRecord], error: RelativeError
) -> Interval:
    """Subtract another arm's error seed by seed (bootstrap over prompts and seeds, paired).

    Args:
        result: has the layers' denominators.
        arm: its runs.
        baseline: the other one's runs.
        error: which error.

    Returns:
        The difference, in the error's own unit.
    """
    pairs = [np.array([part for run in pair for part in _parts(result, run, error)]) for pair in _paired(arm, baseline)]
    # sums [..., seeds, 4] -> ratios [..., seeds] -> means [...]
    return hierarchical_bootstrap(pairs, lambda sums: (ratio(sums[..., :2]) - ratio(sums[..., 2:])).mean(-1))


def _paired(arm: Sequence[RunRecord], baseline: Sequence[RunRecord]) -> list[tuple[RunRecord, RunRecord]]:
    """Pair runs of the same seed; a constant map, which has none, with every run of the other side."""
    if any(run.arm.control == "constant map" for run in [*arm, *baseline]):
        return list(product(arm, baseline))
    of_seed = {run.seed: run for run in baseline}
    return [(run, of_seed[run.seed]) for run in arm if run.seed in of_seed]


def floor_with(floor: FloorOf, directions: Directions) -> RelativeError:
    """Choose the least Jacobian error that the number of active features allows, whatever skip connection there is.

    Args:
        floor: without a skip connection, or beside the mean Jacobian as one.
        directions: R.

    Returns:
        A function that reads it and ||J_f R||^2, prompt by prompt.
    """

    def parts(of: HeldOutRecord, layer: LayerRecord, distances: Sequence[float]) -> Parts:
        del distances
        floors = of.floors if isinstance(of, RunRecord) else None
        if floors is None:
            raise ValueError("a result of version 0.8 has one floor alone: measure again")
        return floors[floor][directions], layer.jacobian[directions]

    return parts


class Group(NamedTuple):
    """The runs of one block and kind of transcoder."""

    result: RealLayersResult
    block: int
    kind: Kind

    @property
    def name(self) -> str:
        """The name in tables."""
        return f"{self.block}, {self.kind.name}"

    @property
    def layer(self) -> LayerRecord:
        """The layer's record."""
        return self.result.layer(self.block)

    def runs(self, arm: Arm = NONE, *, repeated: bool = False) -> list[RunRecord]:
        """List the runs of an arm, by seed.

        Args:
            arm: what is matched.
            repeated: those that saw the passage again and again.

        Returns:
            The runs.
        """
        of = (self.block, self.kind, arm, repeated)
        found = [t for t in self.result.trained if (t.block, t.kind, t.arm, t.repeated) == of]
        return sorted(found, key=lambda t: t.seed)

    def arms(self, *, repeated: bool = False) -> list[Arm]:
        """List the arms that have runs, in the order of the settings.

        Args:
            repeated: those that saw the passage again and again.

        Returns:
            The arms.
        """
        config = self.result.config
        passage = config.passage.arms if config.passage is not None else ()
        arms = [*config.arms, *config.line_arms, *passage]
        return [arm for arm in dict.fromkeys(arms) if self.runs(arm, repeated=repeated)]

    def matched(self) -> list[Arm]:
        """List the arms with a baseline to compare with that have runs.

        Returns:
            The arms with a term, or with a control.
        """
        return [arm for arm in self.arms() if arm != arm.baseline and self.runs(arm.baseline)]

    @property
    def reference(self) -> Arm:
        """The first of no term and skip alone that has runs."""
        return NONE if self.runs() else SKIP

    def error(self, arm: Arm, error: RelativeError, *, repeated: bool = False) -> Interval:
        """Average an error over seeds.

        Args:
            arm: what is matched.
            error: which error.
            repeated: runs that saw the passage again and again.

        Returns:
            The mean, with its 95 % interval over held-out prompts and seeds.
        """
        return over_prompts([_parts(self.result, run, error) for run in self.runs(arm, repeated=repeated)])

    def value(self, arm: Arm, error: RelativeError) -> float:
        """Average an error over seeds, without an interval.

        Args:
            arm: what is matched.
            error: which error.

        Returns:
            The mean.
        """
        return float(np.mean([value(self.result, run, error) for run in self.runs(arm)]))

    def gain(self, arm: Arm, error: RelativeError, floor: Directions | None = None) -> Gain:
        """Compare an arm with its baseline.

        Args:
            arm: what is matched.
            error: which error.
            floor: directions of the floor that distances are taken to; None takes none.

        Returns:
            As `gain`.
        """
        return gain(self.result, self.runs(arm), self.runs(arm.baseline), error, floor)

    def change(self, arm: Arm, error: RelativeError, other: "Arm | None" = None) -> Interval:
        """Compute what an arm changes against another.

        Args:
            arm: what is matched.
            error: which error.
            other: the arm to compare with; None for its baseline.

        Returns:
            The relative change.
        """
        return gain(self.result, self.runs(arm), self.runs(other or arm.baseline), error).change

    def has(self, *arms: Arm) -> bool:
        """Tell whether all of some arms have runs.

        Args:
            arms: which ones.

        Returns:
            Whether they have.
        """
        return all(self.runs(arm) for arm in arms)


def groups(result: RealLayersResult, kinds: Sequence[Kind] | None = None) -> list[Group]:
    """Group runs by block and kind of transcoder.

    Args:
        result: complete or partial.
        kinds: which kinds; None for all.

    Returns:
        The groups that have runs.
    """
    kinds = [*result.config.kinds, *result.config.line] if kinds is None else kinds
    found = [Group(result, block, kind) for block in result.config.blocks for kind in kinds]
    return [group for group in found if group.arms()]


def _parts(result: RealLayersResult, run: RunRecord, error: RelativeError) -> Parts:
    return error(run, result.layer(run.block, run.arm.layer), result.config.distances)
