"""The scoring rule itself: what is known to be perfect, a shortcut, or chance, scores so."""

from copy import deepcopy
from typing import Any

import planted
import pytest
import torch

from faithfulness_plugin.benchmarks.methods.baselines import Baseline
from faithfulness_plugin.benchmarks.note.trainer.ensemble import train_ensemble
from faithfulness_plugin.benchmarks.suite.schema import Scores, Trial
from faithfulness_plugin.benchmarks.suite.scores import l0_of, score
from faithfulness_plugin.benchmarks.suite.trials import run_together
from faithfulness_plugin.benchmarks.tasks.registry import TASKS, task
from faithfulness_plugin.toy.exact_transcoder import exact_transcoder

ERRORS = ("jacobian_error", "response_error", "response_error_data", "fvu", "fvu_shifted", "l0_gap")
CIRCUITS = [name for name in TASKS if task(name).keeps == "circuits"]


@pytest.mark.parametrize("name", TASKS)
def test_the_exact_circuit_scores_perfect(name):
    of = task(name)
    scores = score(of, [exact_transcoder(hop.layer) for hop in of.hops])
    assert {error: getattr(scores, error) for error in ERRORS} == pytest.approx(dict.fromkeys(ERRORS, 0.0), abs=1e-6)
    assert scores.l0 == pytest.approx(l0_of(of))
    if of.keeps == "nothing":
        assert 0 < scores.headline < 0.1  # the chance level
        return
    assert (scores.headline, scores.circuits_f1) == pytest.approx((1.0, 1.0), abs=1e-6)
    assert scores.memorization == pytest.approx(0.5 if of.keeps == "memory" else 0.0, abs=1e-6)


@pytest.mark.parametrize("name", CIRCUITS)
def test_planted_datapoint_features_get_exactly_the_shortcut_score(name):
    of = task(name)
    for n in range(len(of.hops)):  # in one hop: the way is broken there
        transcoders = [exact_transcoder(hop.layer) for hop in of.hops]
        transcoders[n] = planted.memorising(of.hops[n])
        scores = score(of, transcoders)
        assert scores.headline == pytest.approx(0.0, abs=1e-5)
        assert scores.memorization == pytest.approx(1 / len(of.hops), abs=1e-5)
        assert 0.5 < scores.circuits_f1 < 1


def test_where_the_layer_memorises_leaving_the_feature_out_is_the_shortcut():
    of = task("memorizing_layer")
    scores = score(of, [planted.without_last_neuron(of.hops[0])])
    assert (scores.headline, scores.memorization) == pytest.approx((0.0, 0.0), abs=1e-6)
    twice = score(of, [planted.memorising(of.hops[0])])
    assert twice.headline == pytest.approx(0.0, abs=1e-6)


def test_a_transcoder_of_nothing_keeps_nothing():
    of = task("absolute_value")
    nothing = exact_transcoder(of.hops[0].layer)
    torch.nn.init.zeros_(nothing.W_dec)
    scores = score(of, [nothing])
    assert scores.headline == pytest.approx(0.0, abs=1e-3)
    assert scores.l0 == 0.0


@pytest.mark.parametrize("architecture", ["relu_tanh", "topk", "jumprelu"])
def test_scores_do_not_change_under_permutation_and_rescaling_of_features(architecture):
    of = task("absolute_value")
    method = Baseline(architecture, n_steps=300)
    member = method.member(of.hops[0].rows, 16, seed=1, strength=method.strengths[1])
    transcoder: Any = train_ensemble([member], of.hops[0].layer, progress=False, **method.schedule).transcoder(0)
    changed: Any = deepcopy(transcoder)
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(64, generator=generator)
    scale = torch.rand(64, generator=generator) + 0.5
    with torch.no_grad():
        changed.W_enc.copy_((transcoder.W_enc * scale)[:, order])
        changed.b_enc.copy_((transcoder.b_enc * scale)[order])
        changed.W_dec.copy_((transcoder.W_dec / scale[:, None])[order])
        if architecture == "jumprelu":
            changed.threshold.copy_((transcoder.threshold * scale)[order])
    before, after = (score(of, [t]).model_dump() for t in (transcoder, changed))
    assert after == pytest.approx(before, rel=1e-3, abs=1e-4)


@pytest.mark.bitwise("torch multiplies the matrices of a batch one by one, each as if it stood alone")
@pytest.mark.parametrize("method", ["relu_tanh-jvp", "batch_topk-secant", "jumprelu-skip-none"])
def test_two_runs_of_one_seed_agree_whatever_is_trained_beside_them(method):
    trials = [Trial(task="two_hops", method=method, strength=2.0, seed=seed) for seed in (11, 23, 37)]
    together = run_together(trials, n_steps=60)
    for trial, record in zip(trials, together, strict=True):
        alone = run_together([trial], n_steps=60)[0]
        assert alone.scores is not None
        assert record.scores is not None
        assert record.scores.model_dump() == pytest.approx(alone.scores.model_dump(), abs=1e-6)


def test_every_score_says_what_it_is():
    assert all(len(field.description or "") > 30 for field in Scores.model_fields.values())
