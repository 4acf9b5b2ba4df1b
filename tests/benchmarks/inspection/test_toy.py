import numpy as np
import pytest
from command_line import fails
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from faithfulness_plugin.benchmarks.inspection import toy
from faithfulness_plugin.benchmarks.inspection.area_under_curve import area_under_curve
from faithfulness_plugin.benchmarks.inspection.toy import (
    ARMS,
    Scored,
    ToyScores,
    ToyScoresConfig,
    ToyScoresResult,
    area_over_all,
    score_toys,
    toy_table,
)
from faithfulness_plugin.cli.app import app
from faithfulness_plugin.results.experiment import complete, open_result
from faithfulness_plugin.results.schema import Environment

pytestmark = pytest.mark.usefixtures("as_installed")
SMALL = ToyScoresConfig(n_seeds=2, n_steps=40, n_rows=256)


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=30))
def test_the_area_is_the_share_of_pairs_in_the_right_order(pairs):
    scores, positive = np.array([s for s, _ in pairs], float), np.array([p for _, p in pairs], bool)
    of = [(a > b) + (a == b) / 2 for a in scores[positive] for b in scores[~positive]]
    area = area_under_curve(scores, positive)
    assert area is None if not of else area == pytest.approx(np.mean(of))


@pytest.mark.bitwise("the same steps on the same batches in one process round alike")
def test_every_arm_is_trained_and_scored_and_an_interrupted_run_is_resumed(tmp_path, monkeypatch):
    monkeypatch.setattr(toy, "AT_A_TIME", 1)
    whole = complete(ToyScores(), SMALL, tmp_path / "whole")
    assert whole.complete
    assert [(of.condition, of.seed) for of in whole.scored] == [(c, s) for c in ARMS for s in (1000, 1001)]
    assert all(of.scores and set(of.flagged) <= set(of.scores) for of in whole.scored)
    for of in whole.scored:
        assert of.unfaithful is not None
        assert of.unbacked is not None
        assert of.scores.keys() == of.unfaithful.keys() == of.unbacked.keys()
        assert all(0 <= value <= 1 for value in of.unfaithful.values())

    def stopped(config, arm, seeds):
        if (arm, seeds) == ("repetition", [1001]):
            raise KeyboardInterrupt
        return score_toys(config, arm, seeds)

    out = tmp_path / "parts"
    with monkeypatch.context() as context:
        context.setattr(toy, "score_toys", stopped)
        with pytest.raises(KeyboardInterrupt):
            complete(ToyScores(), SMALL, out)
    begun = open_result(ToyScores(), SMALL, out, overwrite=False)
    assert (ToyScores().progress(begun), begun.complete) == ((3, 10), False)
    assert "PARTIAL: 3 transcoders" in ToyScores().tables(begun)
    assert complete(ToyScores(), SMALL, out).scored == whole.scored


@pytest.mark.bitwise("torch multiplies the matrices of a batch one by one, each as if it stood alone")
def test_a_transcoder_is_scored_alike_whatever_its_neighbours():
    together = score_toys(SMALL, "repetition", [1000, 1001])
    assert score_toys(SMALL, "repetition", [1001])[0] == together[1]


def test_the_table_counts_what_was_ranked_flagged_and_missed():
    def scored(condition, seed, true, flagged, scores):
        first = max(scores, key=lambda f: scores[f])
        return Scored(
            condition=condition, seed=seed, fvu=0.1, l0=1.5, true=true, flagged=flagged, first=first, scores=scores
        )

    result = ToyScoresResult(
        complete=True,
        environment=Environment.here(),
        config=SMALL,
        flag=0.5,
        scored=[
            scored("baseline", 0, [], [], {0: 0.1, 1: 0.2}),
            scored("baseline", 1, [], [1], {0: 0.1, 1: 0.6}),
            scored("repetition", 0, [3], [3], {0: 0.1, 3: 0.9}),
            scored("repetition", 1, [3], [], {0: 0.45, 3: 0.4}),
        ],
    )
    lines = {line.split(" | ")[0].strip("| "): line for line in toy_table(result).splitlines()}
    assert "| 0 of 2 | — | — | 1 of 2 [" in lines["baseline"]
    assert "| 2 of 2 | 1 of 2 [" in lines["repetition"]
    assert lines["repetition"].endswith("| 0.40 | 0.45 |")
    others = [0.1, 0.2, 0.1, 0.6, 0.1, 0.45]
    assert area_over_all(result.scored) == np.mean([p > o for p in (0.9, 0.4) for o in others])
    assert "faithfulness" not in toy_table(result)  # results from before it was measured
    assert "unfaithful" not in result.model_dump_json()
    measured = [of.model_copy(update={"unfaithful": of.scores, "unbacked": of.scores}) for of in result.scored]
    area = f"{area_over_all(result.scored):.4f}"
    assert f"By 1 - faithfulness {area}, by what is unbacked {area}." in toy_table(
        result.model_copy(update={"scored": measured})
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--n-seeds", "0"], "--n-seeds: "), (["--jobs", "0"], "--jobs 0"), (["--seed", "-1"], "--seed")],
)
def test_bad_arguments_are_told_in_a_line(tmp_path, arguments, message):
    result = CliRunner().invoke(app, ["experiment", "inspection-toy", "--out", str(tmp_path / "out"), *arguments])
    fails(result, 2, message)
    assert not (tmp_path / "out").exists()
