"""What docs/real-layers.md says of other sparsities, architectures and budgets, held against the committed files."""

from statistics import mean
from typing import NamedTuple

import pytest

from faithfulness_plugin.benchmarks.readability.analysis import COLUMNS
from faithfulness_plugin.benchmarks.readability.analysis import groups as readability_groups
from faithfulness_plugin.benchmarks.readability.schema import ReadabilityResult
from faithfulness_plugin.benchmarks.readme import REAL_LAYERS, RESULTS
from faithfulness_plugin.benchmarks.real_layers.analysis import Group, difference, gain
from faithfulness_plugin.benchmarks.real_layers.arms import NONE, SKIP, Arm
from faithfulness_plugin.benchmarks.real_layers.config import RECIPES
from faithfulness_plugin.benchmarks.real_layers.kinds import Kind
from faithfulness_plugin.benchmarks.real_layers.schema import RealLayersResult
from faithfulness_plugin.benchmarks.short_claims import LONGER, RECIPE
from faithfulness_plugin.measure.relative_errors import delta_ce, fvu, jacobian_error, kl
from faithfulness_plugin.results.open_or_resume import RESULT_FILENAME
from faithfulness_plugin.results.schema import Interval, read_result

PAIR, CONSTANT = jacobian_error("data"), Arm(skip=True, control="constant map")


class Change(NamedTuple):
    """An interval that has bounds."""

    low: float
    mean: float
    high: float


class Changes(NamedTuple):
    """What the recipe changes against skip alone: relative, and in nats a token."""

    pair: Change
    fvu: Change
    ce: Change
    kl: Change


def bounded(of: Interval | None) -> Change:
    assert of is not None
    assert of.low is not None
    assert of.high is not None
    return Change(of.low, of.mean, of.high)


def committed(name: str) -> RealLayersResult:
    result = read_result(REAL_LAYERS / name / RESULT_FILENAME, RealLayersResult)
    assert result.complete
    return result


def changes(group: Group) -> Changes:
    matched, alone = group.runs(RECIPE), group.runs(SKIP)
    relative = [gain(group.result, matched, alone, error).change for error in (PAIR, fvu)]
    nats = [difference(group.result, matched, alone, error) for error in (delta_ce, kl)]
    return Changes(*map(bounded, [*relative, *nats]))


def holds_zero(of: Change) -> bool:
    return of.low <= 0 <= of.high


def test_matching_moves_the_whole_curve_over_l0():
    result = committed("pareto")
    group = {k: Group(result, 10, Kind(sparsity=k)) for k in (8, 16, 32, 64, 128)}
    of = {k: changes(found) for k, found in group.items()}
    gains = [-of[k].pair.mean for k in group]
    assert gains == sorted(gains)
    assert gains[0] > 0.1
    assert group[8].value(RECIPE, PAIR) == pytest.approx(group[128].value(SKIP, PAIR), rel=0.02)
    assert [of[k].fvu.high < 0.01 for k in group] == [False, True, True, True, True]
    assert [holds_zero(of[k].ce) for k in group] == [True, True, True, False, False]
    assert all(holds_zero(of[k].kl) for k in group)
    assert all(found.value(NONE, PAIR) > found.value(SKIP, PAIR) for found in group.values())


def test_other_architectures_gain_as_much_and_relu_pays_in_l0():
    result = committed("kinds")
    group = {kind.architecture: Group(result, 10, kind) for kind in result.config.kinds}
    of = {name: changes(found) for name, found in group.items()}
    for name in ("batch_topk", "jumprelu"):
        assert of[name].pair.mean == pytest.approx(of["topk"].pair.mean, abs=0.02)
        assert of[name].fvu.high < 0.005
    l0 = {(name, arm): mean(run.l0 for run in group[name].runs(arm)) for name in group for arm in (SKIP, RECIPE)}
    assert all(abs(l0["jumprelu", arm] - 32) < 4 for arm in (SKIP, RECIPE))
    assert l0["relu", RECIPE] > 1.3 * l0["relu", SKIP]
    assert of["relu"].pair.mean < of["topk"].pair.mean


def test_on_an_early_block_the_order_is_the_same_and_the_gain_half():
    result = committed("early")
    assert (result.config.blocks, result.config.seeds) == ([3], 3)
    group, wide = Group(result, 3, Kind(sparsity=32)), Group(result, 3, Kind(sparsity=64))
    of, matched = changes(group), group.runs(RECIPE)
    assert of.fvu.high < 0
    assert 0.4 < of.pair.mean / changes(Group(committed("seeds"), 10, Kind(sparsity=32))).pair.mean < 0.6
    controls = [group.runs(arm) for arm in result.config.arms if arm.is_control] + [wide.runs(SKIP)]
    assert len(controls) == 4
    for runs in controls:
        assert bounded(gain(result, matched, runs, PAIR).change).high < 0
    for runs in (group.runs(LONGER), wide.runs(SKIP)):
        assert gain(result, runs, group.runs(SKIP), PAIR).change.mean > 0
    assert group.value(CONSTANT, PAIR) < group.value(SKIP, PAIR)
    assert group.value(RECIPE, PAIR) > 0.7


def test_matching_costs_no_readability_at_an_early_block():
    result = read_result(RESULTS / "readability" / RESULT_FILENAME, ReadabilityResult)
    assert result.complete
    group, column = readability_groups(result)[0], {column.name: column for column in COLUMNS}
    assert group.block == 3
    assert len(group.of(RECIPE)) == 3
    jvp, secant, longer = (
        {name: bounded(group.change(arm, of)) for name, of in column.items() if not of.of_letters}
        for arm in (RECIPE, RECIPES[1], LONGER)
    )
    for name in ("R², token", "R², and two before", "context coherence"):
        assert jvp[name].high > 0
        assert jvp[name].mean > 0
    for name in ("dead", "dense", "near-duplicate"):
        assert jvp[name].low <= 0
    for of in (secant, longer):
        assert of["log10 rate"].high < 0
        assert of["dead"].low > 0
        assert of["dense"].low > 0
    assert all(group.change(RECIPE, of) is None for of in COLUMNS if of.of_letters)


def test_training_does_not_close_the_gap():
    short, long = (changes(Group(committed(name), 10, Kind(sparsity=32))) for name in ("pareto", "long"))
    assert committed("long").config.tokens > 3.9 * committed("pareto").config.tokens
    assert long.pair.mean == pytest.approx(short.pair.mean, abs=0.02)
    assert long.fvu.mean < 0
    assert holds_zero(long.ce)
    assert holds_zero(long.kl)
