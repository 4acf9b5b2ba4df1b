"""Count the features that transcoders of one layer share: without and with a skip connection, and arm by arm."""

from typing import Any, NamedTuple

import numpy as np

from faithfulness_plugin.benchmarks.readability.schema import FeatureNumbers, MatchedPair
from faithfulness_plugin.benchmarks.real_layers.arms import NONE, SKIP
from faithfulness_plugin.benchmarks.real_layers.config import Run
from faithfulness_plugin.metrics.readability.matched_features import matched_features


class Pair(NamedTuple):
    """Two transcoders of one layer and kind."""

    run: Run
    reference: Run

    @property
    def name(self) -> str:
        """The name in progress lines."""
        reference = f"seed {self.reference.seed}" if self.reference.arm == self.run.arm else self.reference.arm.name
        return f"{self.run.name} beside {reference}"


def wanted_pairs(runs: list[Run]) -> list[Pair]:
    """List the pairs to match: every transcoder beside no term and beside skip alone of its seed, and these two beside
    themselves of the next seed, as the share that another seed keeps.

    Args:
        runs: the transcoders.

    Returns:
        The pairs, those of a first seed first.
    """
    found = []
    for run in runs:
        references = [run._replace(arm=arm) for arm in (NONE, SKIP) if arm != run.arm]
        if run.arm in (NONE, SKIP):
            seeds = sorted({of.seed for of in runs if of._replace(seed=run.seed) == run})
            after = seeds[(seeds.index(run.seed) + 1) % len(seeds)]
            references += [run._replace(seed=after)] if len(seeds) > 1 else []
        found += [Pair(run, reference) for reference in references if reference in runs]
    return found


def pair_of(matched: MatchedPair) -> Pair:
    """Name the pair that was matched.

    Args:
        matched: what was found of it.

    Returns:
        The pair, as `wanted_pairs` lists it.
    """
    run = Run(matched.block, matched.kind, matched.arm, matched.seed, False)
    return Pair(run, run._replace(arm=matched.reference, seed=matched.reference_seed))


def matched_pair(
    pair: Pair, transcoders: tuple[Any, Any], numbers: tuple[FeatureNumbers, FeatureNumbers]
) -> MatchedPair:
    """Match the live features of a transcoder with those of its reference.

    Args:
        pair: the two.
        transcoders: the transcoder, and the reference.
        numbers: what was measured of each.

    Returns:
        The partner's cosine and energy, for each feature of the reference.
    """
    live = [np.flatnonzero(of.fires) for of in numbers]
    W_dec = [of.W_dec.detach().double().numpy()[rows] for of, rows in zip(transcoders, live, strict=True)]
    energy, own = (np.array(of.energy)[rows] for of, rows in zip(numbers, live, strict=True))
    found = matched_features(W_dec[1], W_dec[0])
    cosine: list[float | None] = [None] * len(numbers[1].fires)
    ratio = list(cosine)
    for feature in live[1].tolist():
        cosine[feature] = 0.0  # without a partner, where the other transcoder has fewer live features
    for one, other, value in zip(found.one, found.other, found.cosine, strict=True):
        feature = int(live[1][one])
        cosine[feature] = round(float(value), 3)
        ratio[feature] = float(f"{energy[other] / own[one]:.3g}")
    run, reference = pair
    return MatchedPair(
        block=run.block,
        kind=run.kind,
        arm=run.arm,
        seed=run.seed,
        reference=reference.arm,
        reference_seed=reference.seed,
        cosine=cosine,
        energy_ratio=ratio,
    )
