"""The shipped methods, alone and as members of an ensemble."""

from copy import deepcopy
from dataclasses import replace

import pytest
import torch

from faithfulness_plugin.benchmarks.methods.baselines import SWEEPS, TERMS, Baseline
from faithfulness_plugin.benchmarks.methods.method import Method
from faithfulness_plugin.benchmarks.methods.registry import BASELINES
from faithfulness_plugin.benchmarks.note.trainer.ensemble import train_ensemble
from faithfulness_plugin.benchmarks.suite.outside import LayerInputs
from faithfulness_plugin.benchmarks.tasks.registry import task


def test_five_architectures_with_and_without_skip_by_five_terms():
    assert len(BASELINES) == len(SWEEPS) * 2 * len(TERMS) == 50
    assert all(isinstance(baseline, Method) for baseline in BASELINES.values())
    assert all(name == baseline.name for name, baseline in BASELINES.items())


@pytest.mark.parametrize("name", ["relu_l1-none", "topk-skip-jvp", "batch_topk-data"])
def test_train_gives_what_an_ensemble_does(name):
    hop, baseline = task("two_hops").hops[1], Baseline(*_parts(name), n_steps=12)
    strength = baseline.strengths[1]
    inputs = LayerInputs(hop.rows, 4, 256, seed=3)
    alone = baseline.train(hop.layer, inputs, seed=3, strength=strength)
    member = baseline.member(hop.rows, 4, seed=3, strength=strength)
    together = train_ensemble([member], hop.layer, progress=False, **baseline.schedule).transcoder(0)
    for name, weight in together.named_parameters():
        torch.testing.assert_close(alone.get_parameter(name), weight, rtol=1e-2, atol=1e-3)


class Wide(LayerInputs):
    """The same rows in double precision."""

    def __next__(self) -> torch.Tensor:
        return super().__next__().double()


@pytest.mark.parametrize("name", ["relu_tanh-skip-jvp", "jumprelu-augmentation", "jumprelu-skip-secant"])
def test_it_does_so_to_the_last_digits_of_double_precision(monkeypatch, name):
    """In single precision a pre-activation at the edge of a JumpReLU's rectangle is rounded into it or out of it, and
    Adam takes a whole step either way. (TopK revives dead features that tie, on rows of zeros: any of them.)"""
    of = Baseline.config
    monkeypatch.setattr(Baseline, "config", lambda *args, **kwargs: replace(of(*args, **kwargs), dtype="float64"))
    hop, baseline = task("two_hops").hops[1], Baseline(*_parts(name), n_steps=12)
    strength, layer = baseline.strengths[1], deepcopy(hop.layer).double()  # the task is there once
    alone = baseline.train(layer, Wide(hop.rows, 4, 256, seed=3), seed=3, strength=strength)
    member = baseline.member(hop.rows, 4, seed=3, strength=strength)
    together = train_ensemble([member], layer, progress=False, **baseline.schedule).transcoder(0)
    for name, weight in together.named_parameters():
        # SAELens keeps thresholds in single precision
        atol = 1e-6 if name == "threshold" else 1e-9
        torch.testing.assert_close(alone.get_parameter(name), weight, rtol=1e-6, atol=atol)


def _parts(name: str) -> tuple[str, str, bool]:
    architecture, *skip, objective = name.split("-")
    return architecture, objective, bool(skip)


def test_settings_say_all_that_a_method_is_made_of():
    settings = {name: baseline.settings() for name, baseline in BASELINES.items()}
    assert len({str(sorted(s.items(), key=lambda item: item[0])) for s in settings.values()}) == len(BASELINES)
    assert settings["relu_tanh-jvp"]["jacobian_coefficient"] == 10.0
    assert settings["topk-secant"]["jacobian_coefficient"] == 1.0
    assert settings["topk-augmentation"]["augmentation"] == {"kind": "noise", "coefficient": 1.0, "scale": 0.5}
