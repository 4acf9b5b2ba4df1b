"""What this repository says was measured, held against the committed files, seed by seed."""

import pytest

from faithfulness_plugin.benchmarks.band.experiment import fvu as band_fvu
from faithfulness_plugin.benchmarks.band.experiment import hops
from faithfulness_plugin.benchmarks.band.schema import BandResult
from faithfulness_plugin.benchmarks.note.absolute_value.arms import ARMS, arms_of
from faithfulness_plugin.benchmarks.note.absolute_value.schema import (
    AbsoluteValueConfig,
    AbsoluteValueResult,
    ArmSummary,
)
from faithfulness_plugin.benchmarks.note.toy_records import RunMetrics
from faithfulness_plugin.benchmarks.readme import LANGUAGE_MODEL, REAL_LAYERS, RESULT, RESULTS, SPEED, STORE_SPEED
from faithfulness_plugin.benchmarks.real_layers.analysis import Group, gain, value
from faithfulness_plugin.benchmarks.real_layers.arms import SKIP
from faithfulness_plugin.benchmarks.real_layers.closing import tries
from faithfulness_plugin.benchmarks.real_layers.config import RECIPES
from faithfulness_plugin.benchmarks.real_layers.schema import RealLayersResult
from faithfulness_plugin.benchmarks.timing.speed import SpeedResult
from faithfulness_plugin.benchmarks.timing.store import StoreSpeedResult
from faithfulness_plugin.benchmarks.whole_model.analysis import FEATURES, ON, PAIR_ERROR, truth
from faithfulness_plugin.benchmarks.whole_model.schema import WholeModelResult
from faithfulness_plugin.benchmarks.whole_model.verdict import SAME, comparisons, judged
from faithfulness_plugin.language_model.result import TrainedTranscoder, TrainResult
from faithfulness_plugin.measure.relative_errors import fvu, jacobian_error, jacobian_floor
from faithfulness_plugin.results.open_or_resume import RESULT_FILENAME
from faithfulness_plugin.results.schema import read_result

MATCHED = ("jacobian", "jacobian_kink", "secant")


@pytest.fixture(scope="module")
def runs() -> dict[str, list[RunMetrics]]:
    result = read_result(RESULT, AbsoluteValueResult)
    assert result.config == AbsoluteValueConfig()  # ten seeds of the default setting ...
    assert tuple(result.conditions) == ARMS  # ... in today's arms
    return {arm.name: [r.metrics for r in result.runs if r.condition == arm.name] for arm in ARMS}


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def test_repetition_memorises_in_every_seed(runs):
    assert all(m.m >= 0.6 for m in runs["repetition"])


def test_the_baseline_does_not_and_learns_the_layer(runs):
    assert all(m.m <= 0.02 for m in runs["baseline"])
    assert mean([m.fvu for m in runs["baseline"]]) <= 0.03


@pytest.mark.parametrize("name", MATCHED)
def test_matching_removes_it_in_every_seed_at_no_cost(runs, name):
    assert all(m.m <= 0.02 for m in runs[name])
    assert mean([m.fvu for m in runs[name]]) <= mean([m.fvu for m in runs["repetition"]])
    gaps = {n: abs(mean([m.effective_l0 for m in runs[n]]) - 1.6) for n in (name, "repetition")}
    assert gaps[name] <= gaps["repetition"]


def architecture(name: str) -> dict[str, ArmSummary]:
    result = read_result(RESULTS / "architectures" / name / "result.json", AbsoluteValueResult)
    assert tuple(result.conditions) == arms_of(result.config.architecture)
    assert len(result.config.seeds) == 5
    return {summary.condition: summary for summary in result.summary}


@pytest.mark.parametrize("name", ["topk_1", "topk_2", "batch_topk_1.3", "batch_topk_1.6"])
def test_topk_kinds_do_not_memorise_at_the_coefficient_that_the_docs_recommend(name):
    assert architecture(name)["jacobian_kink"].emergence.count <= 1


def test_topk_kinds_do_memorise_where_the_docs_say_so():
    assert architecture("topk_1")["repetition"].emergence.count == 5
    assert architecture("topk_2")["repetition"].emergence.count == 0
    assert architecture("batch_topk_1.3")["repetition"].emergence.count >= 2
    for name in ("batch_topk_1.3", "batch_topk_1.6"):
        matched, unmatched = architecture(name)["jacobian_kink"], architecture(name)["repetition"]
        assert matched.metrics["fvu"].mean <= unmatched.metrics["fvu"].mean
    assert architecture("jumprelu")["repetition"].emergence.count == 0


TARGETS = {
    "TopK step: matched / unmatched": (0, 1.5),
    "TopK step: matched / SAELens's unmatched": (0, 0.7),
    "TopK step: matched / SAELens's unmatched, sparse mode": (0, 1.0),
    "TopK step: torch.func.jvp / closed form": (3, 1e9),
    "Standard step: matched / unmatched": (0, 2.2),
    "TopK step: a pass per coordinate / closed form": (100, 1e9),
    "exact cosine, a row: vmap(jacrev) / Gram": (100, 1e9),
    "peak memory, TopK: matched / unmatched": (0, 1.3),
}


@pytest.mark.parametrize("name", TARGETS)
def test_at_the_size_of_a_small_language_model_matching_costs_what_the_docs_say(name):
    result = read_result(SPEED, SpeedResult)
    ratios = {ratio.name: ratio.median for of in result.sizes if of.size == "small-lm" for ratio in of.ratios}
    low, high = TARGETS[name]
    assert low <= ratios[name] <= high


def test_a_language_models_transcoder_is_nearer_to_its_layer_at_no_price_in_fvu():
    result = read_result(LANGUAGE_MODEL, TrainResult)
    assert result.complete
    assert "dequantised" in result.model  # 4-bit weights: not called by the original's name

    def arm(coefficient: float) -> list[TrainedTranscoder]:
        return sorted((t for t in result.transcoders if t.coefficient == coefficient), key=lambda t: t.seed)

    for plain, matched in zip(arm(0.0), arm(0.3), strict=True):
        before, after = plain.evaluations[-1], matched.evaluations[-1]
        assert after.jacobian_error_data < 0.9 * before.jacobian_error_data
        assert after.jacobian_cosine_data > before.jacobian_cosine_data
    assert len(arm(0.3)) >= 5
    fvu = [mean([t.evaluations[-1].fvu for t in arm(coefficient)]) for coefficient in (0.0, 0.3)]
    assert fvu[1] < 1.01 * fvu[0]
    assert result.speed is not None
    assert result.speed.slow_down <= 1.5


def test_on_real_layers_the_recipe_is_ahead_of_every_control():
    """What README and page claim of a middle and a late block, with the recipe that is the default."""
    result = read_result(REAL_LAYERS / "seeds" / RESULT_FILENAME, RealLayersResult)
    assert result.complete
    assert (result.config.blocks, result.config.seeds) == ([10, 24], 5)
    recipe = RECIPES[0]
    assert (recipe.skip, recipe.term, recipe.probe, recipe.coefficient) == (True, "jvp", "pair", 0.3)
    kind, wide = result.config.kinds[0], result.config.line[0]
    for block in result.config.blocks:
        group = Group(result, block, kind)
        matched, alone = group.runs(recipe), group.runs(SKIP)
        assert gain(result, matched, alone, fvu).change.mean <= 0
        others = [alone, Group(result, block, wide).runs(SKIP)]
        others += [group.runs(arm) for arm in result.config.arms if arm.skip and arm.is_control]
        assert len(others) == 5
        for runs in others:
            change = gain(result, matched, runs, jacobian_error("data")).change
            assert change.high is not None
            assert change.high < 0
    assert Group(result, 10, kind).value(recipe, jacobian_error("data")) <= 0.6


def test_no_single_change_closes_the_rest_of_the_floor():
    """What docs/real-layers.md says of each try."""
    found = tries(read_result(REAL_LAYERS / "closing" / RESULT_FILENAME, RealLayersResult))
    pair, errors = ({t.arm.name: getattr(t, name).mean for t in found} for name in ("pair", "fvu"))
    assert not any(t.brings for t in found)
    assert len(found) >= 14
    assert sorted(pair, key=pair.__getitem__)[:2] == [
        "skip, secant pair 0.3, 4 probes",
        "skip, secant pair 0.3, and jvp",
    ]
    for name, change in pair.items():
        if "features" in name:
            assert change > -0.001
            assert errors[name] < -0.04
        if "18,432" in name:
            assert change > 0.01
        if "rank" in name or "alone" in name or "gates" in name:
            assert change > 0.02
            assert errors[name] > 0.05
    ranks = [pair[f"skip, secant pair 0.3, skip of rank {rank}"] for rank in (8, 32, 128)]
    assert ranks == sorted(ranks, reverse=True)
    assert abs(pair["skip, secant pair 0.3, coefficient grows over 0.5 of the steps"]) < 0.01
    for name in ("dead after 0.05 of the steps", "layer's weights at first, secant pair 0.3"):
        assert -0.05 < next(change for of, change in errors.items() if of.endswith(name)) < -0.01


def test_with_every_layer_replaced_jacobians_come_closer_and_attribution_is_no_truer():
    result = read_result(RESULTS / "whole_model" / RESULT_FILENAME, WholeModelResult)
    by_subject = {of.about: of for of in comparisons(result)}
    for about in ("matching, with a skip connection", "matching, without a skip connection"):
        of = by_subject[about]
        change = PAIR_ERROR.change(result, of.arm, of.other)
        assert change is not None
        assert change.drawn[1] < -0.04
        assert {each.outcome for each in judged(result, of)} == {SAME}
    shuffled = next(arm for arm in result.config.side_arms if arm.control == "shuffled decoders")
    for on in ON:
        number = truth("rank correlation", FEATURES, on)
        ours, chance = number.mean(result, shuffled.before), number.mean(result, shuffled)
        assert ours is not None
        assert chance is not None
        assert chance.drawn[0] < 0 < chance.drawn[1] < ours.drawn[0]


def test_in_a_band_terms_bring_hops_back_at_no_cost():
    result = read_result(RESULTS / "band" / RESULT_FILENAME, BandResult)
    for seed in range(3):
        of = {record.arm: record for record in result.records if record.seed == seed}
        assert hops(of["clt-none"]) < 0.5 < hops(of["clt-own"]) < hops(of["clt-direct"])
        assert band_fvu(of["clt-none"]) < band_fvu(of["per_layer-none"])
        for name in ("clt-own", "clt-direct"):
            assert band_fvu(of[name]) <= band_fvu(of["clt-none"]) + 0.001
            assert sum(of[name].kl) <= sum(of["clt-none"].kl)


def test_no_transcoder_gets_below_the_floor_that_its_sparsity_sets():
    for path in REAL_LAYERS.glob(f"*/{RESULT_FILENAME}"):
        result = read_result(path, RealLayersResult)
        for trained in result.trained:
            if trained.arm.layer == "real":
                for directions in trained.floor:
                    floor = value(result, trained, jacobian_floor(directions))
                    assert value(result, trained, jacobian_error(directions)) >= floor * (1 - 1e-6)


def test_a_repeated_passage_grows_features_of_its_own_and_matching_leaves_some():
    result = read_result(REAL_LAYERS / "version_0_8" / RESULT_FILENAME, RealLayersResult)
    shares = {(t.repeated, t.arm.term): t.passage.share for t in result.trained if t.passage and t.kind.sparsity == 32}
    assert shares[True, "none"] > 10 * shares[False, "none"]
    assert shares[False, "secant"] < shares[True, "secant"] < shares[True, "none"]


def test_a_store_saves_the_model_and_changes_nothing():
    result = read_result(STORE_SPEED, StoreSpeedResult)
    assert result.difference is not None
    assert result.difference < 1e-6
    assert all(a > 3 * b for a, b in zip(result.from_store, result.from_model, strict=True))
    half, one, two = result.together
    assert (half.processes, one.processes, two.processes) == (1, 1, 2)
    assert one.losses == pytest.approx(two.losses, rel=1e-5)
