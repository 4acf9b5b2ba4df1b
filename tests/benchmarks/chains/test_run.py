"""The second track end to end, at a size that says nothing: resumed, refused, with a method of one's own."""

import pytest
from pydantic import ValidationError

from faithfulness_plugin.benchmarks.chains import report
from faithfulness_plugin.benchmarks.chains.config import ChainsConfig
from faithfulness_plugin.benchmarks.chains.experiment import Chains
from faithfulness_plugin.benchmarks.chains.schema import ChainScores, ChainsResult, ChainTrial, ChainTrialRecord
from faithfulness_plugin.benchmarks.chains.trials import train_and_score
from faithfulness_plugin.benchmarks.experiments import EXPERIMENTS
from faithfulness_plugin.benchmarks.methods.registry import import_method
from faithfulness_plugin.benchmarks.suite.at_layer_l0 import seed_scores
from faithfulness_plugin.benchmarks.suite.outside import run_outside
from faithfulness_plugin.results.experiment import Running, complete
from faithfulness_plugin.results.schema import read_result
from faithfulness_plugin.results.settings_file import make_config, read_settings

TINY = ChainsConfig(tasks=["two_hops"], methods=["clt-none", "clt-direct"], seeds=2, strengths=[0.1, 0.3], n_steps=20)
OWN = "outside_chain_methods:"


def own(name: str) -> ChainTrial:
    return ChainTrial(task="two_hops", method=f"{OWN}{name}", strength=0.1, seed=3)


@pytest.mark.parametrize("name", EXPERIMENTS["chains"].preset_names)
def test_presets_are_settings(name):
    path = EXPERIMENTS["chains"].preset_path(name)
    make_config(read_settings(path), str(path), ChainsConfig)


def test_stopped_it_resumes_and_ends_the_same(tmp_path):
    chains = Chains()
    part, line = next(chains.run(chains.fresh(TINY), Running(tmp_path)))
    assert line.startswith("two_hops, clt-none: 4 trials, hops kept ")
    assert chains.progress(part) == (4, 8)
    assert "PARTIAL" in chains.tables(part)
    (tmp_path / "result.json").write_text(part.model_dump_json())
    result = complete(chains, TINY, tmp_path)
    assert result.trials[:4] == part.trials
    assert [trial.key for trial in result.trials] == [trial.key for trial in result.planned]
    assert all(trial.scores is not None for trial in result.trials)
    assert read_result(tmp_path / "result.json", ChainsResult) == result
    assert "# Cross-layer transcoders: which hops are kept" in chains.page(result)


def planted(**kept: float) -> ChainsResult:
    """A result in which every method passes the chain's L0 between two strengths."""
    config = TINY.model_copy(update={"methods": [name.replace("__", "-") for name in kept]})
    result = Chains().fresh(config)

    def record(trial: ChainTrial) -> ChainTrialRecord:
        weak = trial.strength == 0.1
        return recorded(
            trial, kept[trial.method.replace("-", "__")] + 0.01, 0.1, result.layer_l0["two_hops"] + weak - 0.5
        )

    return result.with_trials([record(trial) for trial in result.planned])


def recorded(trial: ChainTrial, kept: float, fvu: float, l0: float) -> ChainTrialRecord:
    scores = ChainScores(hops_kept=kept, edge_precision=1, edge_recall=1, fvu=fvu, fvu_last=fvu, l0=l0)
    return ChainTrialRecord(**trial.model_dump(), scores=scores, seconds=1)


def test_of_what_is_near_the_chains_l0_and_what_passes_it_the_lowest_fvu_is_read():
    result = Chains().fresh(TINY.model_copy(update={"methods": ["clt-none"]}))
    l0 = result.layer_l0["two_hops"]
    plateau = {0.1: (1.0, 0.01, 1.01 * l0), 0.3: (0.0, 0.5, 0.5 * l0)}
    result = result.with_trials([recorded(trial, *plateau[trial.strength]) for trial in result.planned])
    found = seed_scores(result, "two_hops", "clt-none", result.seeds[0])
    assert found is not None
    assert (found["hops_kept"], found["fvu"]) == (1.0, 0.01)


def test_the_report_says_what_is_rewritten_and_what_a_term_brings():
    result = planted(per_layer__none=0.98, clt__none=0.1, clt__direct=0.8)
    words = report.words(result)
    assert "per_layer-none keeps 0.9" in words
    assert "clt-none keeps 0.11 of the hops (below 0.3 in 2, above 0.9 in 0 of 2 seeds)" in words
    assert "| clt-direct | clt-none | 2 | 0.700" in report.gains_table(result, "two_hops").render("markdown")
    assert "| clt-direct | 0.81 (0.100) |" in report.overview(result)
    assert "no seed of clt-none is there" in report.words(report.at_share(result, 0.1))


def test_methods_of_ones_own_return_a_cross_layer_transcoder_or_one_for_each_layer():
    for name in ("together", "each_alone"):
        record = train_and_score(import_method(OWN + name), own(name))
        assert record.failed is None
        assert record.scores is not None
        assert 0 <= record.scores.hops_kept <= 1
    assert record.scores is not None
    assert record.scores.hops_kept == 1


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("a_list_too_short", "1 layers, and the chain 2"),
        ("a_number", "returned a int"),
        ("is_nan", "NaN or Inf"),
    ],
)
def test_what_cannot_be_scored_is_recorded(name, why):
    record = train_and_score(import_method(OWN + name), own(name))
    assert record.scores is None
    assert why in str(record.failed)


def test_an_own_method_runs_in_a_process_of_its_own():
    (record,) = run_outside(f"{OWN}together", [own("together")], 300.0, train_and_score, ChainTrialRecord)
    assert record.scores == train_and_score(import_method(f"{OWN}together"), own("together")).scores


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"tasks": ["two_hop"]}, "no task 'two_hop': did you mean two_hops"),
        ({"methods": ["clt-dirct"]}, "no method 'clt-dirct': did you mean clt-direct"),
        ({"methods": ["clt-none", "clt-none"]}, "is given twice"),
        ({"seeds": 5, "from_seed": 18}, "the frozen list has 20"),
        ({"coefficients": {"indirect": 1.0}}, "no term 'indirect'"),
        ({"strengths": [0.0]}, "above 0"),
    ],
)
def test_bad_settings_are_refused(wrong, why):
    with pytest.raises(ValidationError, match=why):
        ChainsConfig(**wrong)
