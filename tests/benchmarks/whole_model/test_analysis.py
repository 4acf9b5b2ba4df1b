"""Numbers and verdicts from made-up sums."""

from typing import Any

import numpy as np
import pytest
import torch

from faithfulness_plugin.attribution.agreement import EffectSums
from faithfulness_plugin.benchmarks.whole_model.analysis import (
    ALL_FEATURES,
    DELTA_CE,
    FEATURES,
    FVU,
    INPUTS,
    KL,
    distances,
    truth,
)
from faithfulness_plugin.benchmarks.whole_model.arms import WITH_NOTHING, WITH_SKIP, SetArm
from faithfulness_plugin.benchmarks.whole_model.config import MATCHED, WholeModelConfig
from faithfulness_plugin.benchmarks.whole_model.schema import LayerSums, SetRecord, WholeModelResult
from faithfulness_plugin.benchmarks.whole_model.truth_of import TruthOf
from faithfulness_plugin.benchmarks.whole_model.verdict import comparisons, headline, judged, verdicts
from faithfulness_plugin.results.schema import Environment

N_PROMPTS = 12
RECIPE = SetArm(arm=MATCHED)


def effects(agreement: float, seed: int, n: int = 40) -> EffectSums:
    """Predictions that follow what is measured by so much."""
    g = torch.Generator().manual_seed(seed)
    measured, noise = torch.randn(2, n, generator=g)
    return EffectSums.of(agreement * measured + (1 - agreement) * noise, measured)


def set_of(arm: SetArm, seed: int = 0, *, on_logits: float = 0.5, on_features: float = 0.5, **more: Any) -> SetRecord:
    parts = []
    for k, kind in enumerate(("remove", "double", "remove token's features", "input")):
        for on, agreement in (("logits", on_logits), ("features", on_features)):
            for distance in (1, 2):
                draws = [effects(agreement, 1000 * seed + 100 * k + 10 * p + distance) for p in range(N_PROMPTS)]
                sums = [of.parts().tolist() for of in draws]
                parts.append(
                    TruthOf(kind=kind, on=on, distance=distance, prompts=list(range(N_PROMPTS)), sums=sums)  # pyright: ignore[reportArgumentType]
                )
    layers = [
        LayerSums(
            block=block,
            error=[0.1 * (block + 1)] * 3,
            variance=[1.0] * 3,
            jacobian_error=[0.6] * 3,
            jacobian=[1.0] * 3,
            l0=32.0,
            dead_fraction=0.0,
        )
        for block in (0, 1)
    ]
    fields: dict[str, Any] = {"ce": [127.0 * 3.5] * 3, "kl": [127.0] * 3, "agreed": [100.0] * 3, **more}
    return SetRecord(arm=arm, seed=seed, layers=layers, with_errors=1e-6, truth=parts, seconds=1.0, **fields)


def result_of(*sets: SetRecord) -> WholeModelResult:
    arms = list(dict.fromkeys(of.arm for of in sets))
    config = WholeModelConfig(arms=arms, side_arms=[], truth_prompts=N_PROMPTS, seeds=2, held_out_prompts=3)
    return WholeModelResult(
        complete=True, environment=Environment.here(), model="m", config=config, ce_clean=[127.0 * 3] * 3, sets=[*sets]
    )


def test_a_correlation_is_that_of_all_pairs_together():
    of = set_of(WITH_SKIP)
    found = truth("linear correlation", FEATURES, "logits").mean(result_of(of), WITH_SKIP)
    parts = [p for p in of.truth if p.kind in ("remove", "double") and p.on == "logits"]
    n, p, m, pp, mm, pm = np.sum([np.array(part.sums)[:, :6] for part in parts], axis=(0, 1))
    covariance = pm / n - p / n * m / n
    expected = covariance / np.sqrt((pp / n - (p / n) ** 2) * (mm / n - (m / n) ** 2))
    assert found is not None
    assert found.mean == pytest.approx(expected)
    assert found.low is not None
    assert found.low < expected


def test_numbers_of_sets_are_means_over_layers_and_tokens():
    result = result_of(set_of(WITH_SKIP))
    for number, expected in ((FVU, 0.15), (KL, 1.0), (DELTA_CE, 0.5)):
        found = number.mean(result, WITH_SKIP)
        assert found is not None
        assert found.mean == pytest.approx(expected)
    assert distances(result, INPUTS, "features") == [1, 2]
    assert KL.mean(result, WITH_NOTHING) is None


def test_a_change_is_paired_by_seed():
    result = result_of(*(set_of(arm, seed) for seed in (0, 1) for arm in (WITH_SKIP, RECIPE)), set_of(RECIPE, 2))
    change = truth("rank correlation", ALL_FEATURES, "features").change(result, RECIPE, WITH_SKIP)
    assert change is not None
    assert (change.mean, change.low, change.high) == pytest.approx((0, 0, 0))


@pytest.mark.parametrize(
    ("matched", "says"),
    [
        ({"on_logits": 0.9, "on_features": 0.9}, "makes attribution graphs truer"),
        ({"on_logits": 0.2, "on_features": 0.2}, "makes attribution graphs less true"),
        ({}, "leaves attribution graphs as true as they were"),
        ({"on_features": 0.9}, "better for features on later features, inputs on later features; no different for"),
        ({"on_logits": 0.2, "on_features": 0.9}, "worse for features on logits, inputs on logits"),
    ],
)
def test_the_verdict_follows_from_the_intervals(matched, says):
    sets = [of for seed in (0, 1) for of in (set_of(WITH_SKIP, seed), set_of(RECIPE, seed, **matched))]
    result = result_of(*sets)
    assert says in headline(result)
    (comparison,) = comparisons(result)
    assert (comparison.arm, comparison.other) == (RECIPE, WITH_SKIP)
    assert len(judged(result, comparison)) == 4
    assert "matching, with a skip connection" in verdicts(result)


def test_a_result_without_a_matched_arm_has_no_headline():
    assert headline(result_of(set_of(WITH_SKIP), set_of(WITH_NOTHING))) == ""
