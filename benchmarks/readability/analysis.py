"""Numbers of arms with intervals over seeds and features, and what arms change against skip alone."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from faithfulness_plugin.benchmarks.readability.schema import FeatureNumbers, MatchedPair, Numbers, ReadabilityResult
from faithfulness_plugin.benchmarks.real_layers.arms import NONE, SKIP, Arm
from faithfulness_plugin.benchmarks.real_layers.kinds import Kind
from faithfulness_plugin.metrics.readability.firing_rates import DENSE
from faithfulness_plugin.results.hierarchical_bootstrap import hierarchical_bootstrap
from faithfulness_plugin.results.schema import Interval

BUNDLES = 256
"""Features are dealt in turn into so many bundles, which are drawn: their sums vary as much as those of features alone,
and drawing thousands of features thousands of times would take minutes."""
N_LETTERS = 26
Units = Float[np.ndarray, " units"]
"""A number a feature or a letter; NaN where it does not count."""


class Column(NamedTuple):
    """A column of the table."""

    name: str
    read: Callable[[FeatureNumbers], Units | None]
    """Features' or letters' numbers, whose mean it shows; None where the transcoder has none."""
    of_letters: bool = False


def _array(numbers: Numbers) -> Units:
    return np.array([np.nan if value is None else value for value in numbers], dtype=float)


def _r2(numbers: Numbers) -> Units:
    """Count what predicts worse than the mean as no prediction: one rare feature would move the mean of all others."""
    return np.maximum(_array(numbers), 0.0)


def _live(of: FeatureNumbers, values: Units) -> Units:
    return np.where(np.array(of.fires) > 0, values, np.nan)


def _log10_rate(of: FeatureNumbers) -> Units:
    fires = np.array(of.fires, dtype=float)
    return np.log10(fires / of.n_rows, out=np.full(len(fires), np.nan), where=fires > 0)


def _duplicate(of: FeatureNumbers) -> Units:
    found = np.zeros(len(of.fires))
    found[of.duplicate] = 1
    return _live(of, found)


def _letters(read: Callable[..., float | None]) -> Callable[[FeatureNumbers], Units | None]:
    def letters(of: FeatureNumbers) -> Units | None:
        if of.letters is None:
            return None
        values = np.full(N_LETTERS, np.nan)
        for letter in of.letters:
            value = read(letter)
            values[ord(letter.letter) - ord("a")] = np.nan if value is None else value
        return values

    return letters


COLUMNS = (
    Column("dead", lambda of: (np.array(of.fires) == 0).astype(float)),
    Column("dense", lambda of: _live(of, (np.array(of.fires) > DENSE * of.n_rows).astype(float))),
    Column("log10 rate", _log10_rate),
    Column("near-duplicate", _duplicate),
    Column("R², token", lambda of: _r2(of.r2_token)),
    Column("R², and two before", lambda of: _r2(of.r2_neighbours)),
    Column("context coherence", lambda of: _array(of.coherence)),
    Column("features a letter", _letters(lambda of: len(of.main)), of_letters=True),
    Column("silent", _letters(lambda of: of.silent / of.words if of.words else None), of_letters=True),
    Column("absorbed", _letters(lambda of: of.absorbed / of.words if of.words else None), of_letters=True),
)
"""Each is a mean over features or letters."""


class Group(NamedTuple):
    """The transcoders of one block and kind."""

    result: ReadabilityResult
    block: int
    kind: Kind

    @property
    def name(self) -> str:
        """The name in tables."""
        return f"block {self.block}, {self.kind.name}"

    def of(self, arm: Arm) -> dict[int, FeatureNumbers]:
        """Collect the transcoders of an arm.

        Args:
            arm: which arm.

        Returns:
            The transcoders by seed.
        """
        found = [of for of in self.result.measured if (of.block, of.kind, of.arm) == (self.block, self.kind, arm)]
        return {of.seed: of for of in sorted(found, key=lambda of: of.seed)}

    @property
    def arms(self) -> list[Arm]:
        """The arms, in the order of the runs; no term and skip alone first."""
        arms = [of.arm for of in self.result.measured if (of.block, of.kind) == (self.block, self.kind)]
        return sorted(dict.fromkeys(arms), key=lambda arm: (arm != NONE, arm != SKIP))

    def mean(self, arm: Arm, column: Column) -> Interval | None:
        """Average a column over an arm's features and seeds.

        Args:
            arm: which arm.
            column: what is averaged.

        Returns:
            The mean over seeds of the means over features, with its 95 % interval over both; None where nothing counts.
        """
        return mean_over([column.read(of) for of in self.of(arm).values()], of_letters=column.of_letters)

    def change(self, arm: Arm, column: Column) -> Interval | None:
        """Compare an arm with skip alone, seed by seed.

        Args:
            arm: which arm.
            column: what is compared.

        Returns:
            The difference of the means, with its 95 % interval; None where nothing counts, or no seed has both.
        """
        ours, theirs = self.of(arm), self.of(SKIP)
        seeds = [seed for seed in ours if seed in theirs]
        sides = [[column.read(of[seed]) for seed in seeds] for of in (ours, theirs)]
        return mean_over(sides[0], sides[1], of_letters=column.of_letters)

    def pairs(self, arm: Arm, reference: Arm) -> list[MatchedPair]:
        """Find the pairs of an arm and a reference.

        Args:
            arm: which arm.
            reference: the arm that its features are matched with.

        Returns:
            The pairs, by seed.
        """
        of = (self.block, self.kind, arm, reference)
        found = [pair for pair in self.result.matched if (pair.block, pair.kind, pair.arm, pair.reference) == of]
        return sorted(found, key=lambda pair: pair.seed)

    def kept(self, arm: Arm, reference: Arm) -> Interval | None:
        """Compute the share of a reference's live features that an arm has as well.

        Args:
            arm: which arm.
            reference: the other arm.

        Returns:
            The share, with its interval; None where they were not matched.
        """
        least = self.result.config.matched_cosine
        each = [_array(pair.cosine) for pair in self.pairs(arm, reference)]
        return mean_over([np.where(np.isnan(cosine), np.nan, cosine > least) for cosine in each])

    def energy_ratio(self, arm: Arm, reference: Arm) -> Interval | None:
        """Average the log10 of the ratio of energies over features that an arm and a reference share.

        Args:
            arm: which arm.
            reference: the other arm.

        Returns:
            The mean of log10 (energy in the arm / energy in the reference), with its interval; None without pairs.
        """
        each = []
        for pair in self.pairs(arm, reference):
            same, ratio = _array(pair.cosine) > self.result.config.matched_cosine, _array(pair.energy_ratio)
            each.append(np.log10(ratio, out=np.full(len(ratio), np.nan), where=same & (ratio > 0)))
        return mean_over(each)


def groups(result: ReadabilityResult) -> list[Group]:
    """Group transcoders by block and kind.

    Args:
        result: complete or partial.

    Returns:
        The groups.
    """
    return [Group(result, *of) for of in dict.fromkeys((of.block, of.kind) for of in result.measured)]


def mean_over(
    seeds: Sequence[Units | None], others: Sequence[Units | None] | None = None, *, of_letters: bool = False
) -> Interval | None:
    """Average units over seeds, or compare two arms: the mean of the first minus that of the others.

    Args:
        seeds: numbers of each seed.
        others: those of the other arm, seed by seed; None compares nothing.
        of_letters: whether units are the same for all seeds, and are drawn for all of them at once.

    Returns:
        The mean or the difference, with a 95 % interval by a bootstrap that draws seeds and units; None where a seed
        has no number.
    """
    parts = []
    for n, values in enumerate(seeds):
        both = [values] if others is None else [values, others[n]]
        if any(of is None or np.isnan(of).all() for of in both):
            return None
        size = N_LETTERS if of_letters else BUNDLES
        parts.append(np.concatenate([_sums(of, size) for of in both if of is not None]))
    if not parts:
        return None

    def statistic(sums: np.ndarray) -> np.ndarray:
        # sums [..., seeds, 2 or 4]: a sum and a count for each side
        means = [_ratio(sums[..., i], sums[..., i + 1]) for i in range(0, sums.shape[-1], 2)]
        difference = means[0] if len(means) == 1 else means[0] - means[1]
        return difference.mean(-1)

    return hierarchical_bootstrap(parts, statistic, own_prompts=not of_letters)


def _sums(values: Units, size: int) -> Float[np.ndarray, "2 size"]:
    """Sum the values that count, and count them, in bundles that are dealt in turn."""
    known, bundle = ~np.isnan(values), np.arange(len(values)) % size
    return np.stack([
        np.bincount(bundle[known], weights=weights, minlength=size) for weights in (values[known], known[known] * 1.0)
    ])  # fmt: skip


def _ratio(sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
    return np.divide(sums, counts, out=np.full(sums.shape, np.nan), where=counts > 0)
