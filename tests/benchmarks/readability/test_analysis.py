"""Means, changes and sentences, from results that are made up."""

import numpy as np
import pytest

from faithfulness_plugin.benchmarks.readability.analysis import COLUMNS, Group, groups, mean_over
from faithfulness_plugin.benchmarks.readability.config import ReadabilityConfig
from faithfulness_plugin.benchmarks.readability.drawing import figures
from faithfulness_plugin.benchmarks.readability.schema import (
    FeatureNumbers,
    LayerContext,
    LetterRecord,
    MatchedPair,
    ReadabilityResult,
)
from faithfulness_plugin.benchmarks.readability.tables import differences, tables
from faithfulness_plugin.benchmarks.real_layers.arms import NONE, SKIP, Arm
from faithfulness_plugin.benchmarks.real_layers.kinds import Kind
from faithfulness_plugin.results.schema import Environment

RECIPE = Arm(skip=True, term="secant", probe="pair", coefficient=0.3)
BY_NAME = {column.name: column for column in COLUMNS}


def numbers(arm: Arm, seed: int, fires: list[int], r2: float | None = 0.5, letters: bool = True) -> FeatureNumbers:
    n = len(fires)
    found = [
        LetterRecord(letter="a", main=[1, 2], f1=[0.5, 0.6], words=10, silent=4, absorbed=1),
        LetterRecord(letter="c", main=[0], f1=[0.9], words=0, silent=0, absorbed=0),
    ]
    return FeatureNumbers(
        block=3, kind=Kind(), arm=arm, seed=seed, n_rows=1000, fires=fires, duplicate=[1], nearest=[0.2] * n,
        r2_token=[r2] * n, r2_neighbours=[None, *[r2] * (n - 1)], coherence=[0.1] * n, energy=[1.0] * n,
        log10_rate_quantiles=[-3, -2.5, -2, -1.5, -1], skip_carried=0.25 if arm.skip else None,
        skip_of_output=0.4 if arm.skip else None, letters=found if letters else None,
    )  # fmt: skip


def result(measured: list[FeatureNumbers], matched: list[MatchedPair] | None = None) -> ReadabilityResult:
    layer = LayerContext(
        block=3, prompts=9, rows=1000, random_cosine=0.1, words=100, probe_accuracy=0.5, probe_chance=0.1,
        probe_f1=[0.9, None, 0.8, 0.4, *[None] * 22], test_words=[20, 0, 20, 20, *[0] * 22],
    )  # fmt: skip
    return ReadabilityResult(
        complete=True, environment=Environment.here(), model="made up",
        config=ReadabilityConfig(transcoders="out", least_letters=2), layers=[layer], measured=measured,
        matched=matched or [],
    )  # fmt: skip


def group(*measured: FeatureNumbers, matched: list[MatchedPair] | None = None) -> Group:
    (found,) = groups(result(list(measured), matched))
    return found


def test_each_column_is_the_mean_over_what_counts():
    of = group(numbers(SKIP, 0, [0, 10, 100, 1000]))
    means = {name: of.mean(SKIP, column) for name, column in BY_NAME.items()}
    assert {name: mean.mean for name, mean in means.items() if mean is not None} == pytest.approx(
        {
            "dead": 1 / 4,
            "dense": 1 / 3,  # 100 of 1,000 is a tenth, no more
            "log10 rate": -1.0,
            "near-duplicate": 1 / 3,
            "R², token": 0.5,
            "R², and two before": 0.5,
            "context coherence": 0.1,
            "features a letter": 1.5,
            "silent": 0.4,
            "absorbed": 0.1,
        }
    )


def test_predictions_worse_than_the_mean_count_as_none():
    of = numbers(SKIP, 0, [50] * 4, r2=0.4)
    of = of.model_copy(update={"r2_token": [0.4, -9.0, 0.8, None]})
    mean = group(of).mean(SKIP, BY_NAME["R², token"])
    assert mean is not None
    assert mean.mean == pytest.approx(0.4)


def test_what_nothing_counts_in_is_left_out():
    of = group(numbers(SKIP, 0, [5, 5], r2=None, letters=False))
    for name in ("R², token", "features a letter", "silent", "absorbed"):
        assert of.mean(SKIP, BY_NAME[name]) is None
    assert "| skip |" in tables(of.result)
    assert "—" in tables(of.result)


def test_bundles_have_the_interval_of_features_drawn_one_by_one():
    rng = np.random.default_rng(0)
    seeds = [rng.normal(size=1500) + shift for shift in (0.0, 0.1, 0.3)]
    found = mean_over(seeds)
    assert found is not None
    draws = [np.mean([rng.choice(seeds[s], size=1500).mean() for s in rng.integers(3, size=3)]) for _ in range(3000)]
    low, high = np.percentile(draws, [2.5, 97.5])
    assert found.mean == pytest.approx(np.mean(seeds))
    assert (found.low, found.high) == (pytest.approx(low, abs=0.02), pytest.approx(high, abs=0.02))


def test_one_seed_has_the_interval_of_its_features():
    values = np.random.default_rng(0).normal(size=2304)
    found = mean_over([values])
    assert found is not None
    assert found.low is not None
    assert found.high is not None
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * values.std() / len(values) ** 0.5, rel=0.15)


def test_a_change_is_paired_by_seed():
    arms = [
        numbers(arm, seed, [0] * dead + [10] * (400 - dead))
        for seed, base in ((0, 100), (1, 300))
        for arm, dead in ((SKIP, base), (RECIPE, base + 40))
    ]
    of = group(*arms, numbers(NONE, 7, [1] * 400))
    change, alone = of.change(RECIPE, BY_NAME["dead"]), of.mean(RECIPE, BY_NAME["dead"])
    assert change is not None
    assert alone is not None
    assert change.mean == pytest.approx(0.1)
    assert change.low is not None
    assert alone.low is not None
    assert change.low > 0.05  # seeds are far apart, and the change is the same in each
    assert alone.mean - alone.low > 0.2
    assert of.change(NONE, BY_NAME["dead"]) is None  # no seed has both
    sentence = differences(of)
    assert sentence.startswith(
        "Against skip alone (block 3, topk k 32), these arms differ by more than their 95 % interval: "
    )
    assert "skip, secant pair 0.3: dead +0.100 (" in sentence
    assert sentence.endswith("; and these in no column: no term.")


def test_arms_that_are_alike_differ_in_nothing():
    of = group(numbers(SKIP, 0, [5, 50]), numbers(RECIPE, 0, [5, 50]))
    assert differences(of).endswith("no arm differs by more than its 95 % interval: skip, secant pair 0.3.")
    assert "no arm to compare" in differences(group(numbers(NONE, 0, [5])))


def test_kept_features_and_their_energy():
    pair = MatchedPair(
        block=3, kind=Kind(), arm=RECIPE, seed=0, reference=SKIP, reference_seed=0,
        cosine=[0.9, 0.8, 0.5, None], energy_ratio=[10.0, 0.1, 1000.0, None],
    )  # fmt: skip
    of = group(numbers(SKIP, 0, [5, 5, 5, 0]), numbers(RECIPE, 0, [5] * 4), matched=[pair])
    kept, ratio = of.kept(RECIPE, SKIP), of.energy_ratio(RECIPE, SKIP)
    assert kept is not None
    assert ratio is not None
    assert kept.mean == pytest.approx(2 / 3)
    assert ratio.mean == pytest.approx(0.0)
    page = tables(of.result)
    assert "| skip, secant pair 0.3 | — | — | 0.667 ± " in page
    assert "0.250 | 0.400 |" in page


def test_the_page_says_where_letters_are_not_written():
    of = result([numbers(SKIP, 0, [5, 50])])
    assert "2 letters have 0.6 or more, in 10 words or more, and these count" in tables(of)
    strict = of.model_copy(update={"config": of.config.model_copy(update={"least_letters": 3})})
    assert "too few: the layer hardly writes the first letter" in tables(strict)


def test_a_figure_for_each_block_and_none_without_results():
    assert figures(result([])) == {}
    (figure,) = figures(result([numbers(arm, s, [5, 50, 500]) for arm in (NONE, SKIP) for s in (0, 1)])).values()
    assert [ax.get_xlabel() for ax in figure.axes] == [
        "log10 of the firing rate",
        "R² from the token and the two before it",
    ]
