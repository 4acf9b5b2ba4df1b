"""Probes that are differences of rows: no product with W_enc, and equal to the path that makes them all."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from oracles import ARCHITECTURES, SPARSE, random_transcoder
from sae_lens.saes.sae import TrainStepInput

from faithfulness_plugin.jacobian.active import dot_active
from faithfulness_plugin.jacobian.estimators.base import Estimator
from faithfulness_plugin.transcoders.base import TrainingTranscoder

LAYOUTS = [*((name, False) for name in ARCHITECTURES), *((name, True) for name in SPARSE)]
MATCHED = [
    {},
    {"gate_bandwidth": 0.7},
    {"estimator": "secant"},
    {"estimator": "secant", "central": True},
    {"jitter": 0.3},
    {"estimator": "secant", "jitter": 0.3},
]


def transcoder_of(layout: tuple[str, bool], layer: Any, **fields: Any) -> TrainingTranscoder[Any]:
    name, sparse = layout
    fields = {"jacobian_coefficient": 0.7, **fields, **({"use_sparse_activations": sparse} if "topk" in name else {})}
    return random_transcoder(name, **fields).set_layer(layer)


def step(transcoder: TrainingTranscoder[Any], x: torch.Tensor) -> dict[str, torch.Tensor]:
    coefficients = dict.fromkeys(transcoder.get_coefficients(), 0.3)
    given = TrainStepInput(
        sae_in=x, coefficients=coefficients, dead_neuron_mask=None, n_training_steps=0, is_logging_step=False
    )
    output = transcoder.training_forward_pass(given)
    output.loss.backward()
    return output.losses


@contextmanager
def every_product(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Probes that are not known to be differences of rows."""
    with monkeypatch.context() as patch:
        patch.setattr(Estimator, "draw_along", lambda self, rows, generator: None)
        yield


def same(one: TrainingTranscoder[Any], other: TrainingTranscoder[Any]) -> None:
    for (name, a), b in zip(one.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-10, atol=1e-10, msg=name)


@pytest.mark.usefixtures("as_installed")
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("options", MATCHED, ids=str)
@pytest.mark.parametrize("probe", ["pair", "difference"])
@pytest.mark.parametrize(("skip", "n_probes"), [(False, 1), (True, 1), (True, 3)])
def test_a_step_is_the_one_that_makes_every_product(mlp, monkeypatch, layout, options, probe, skip, n_probes):
    fields = {"jacobian": {"probe": probe, "n_probes": n_probes, **options}, "skip": skip}
    x = torch.randn(20, 5, dtype=torch.float64)
    free, plain = transcoder_of(layout, mlp, **fields), transcoder_of(layout, mlp, **fields)
    plain.load_state_dict(free.state_dict())
    losses = step(free, x)
    with every_product(monkeypatch):
        torch.testing.assert_close(losses, step(plain, x), rtol=1e-10, atol=1e-10)
    same(free, plain)


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("options", [{}, {"estimator": "secant"}], ids=str)
def test_training_takes_the_steps_of_the_path_that_makes_every_product(mlp, monkeypatch, layout, options):
    fields = {"jacobian": {"probe": "pair", **options}, "skip": True}
    free, plain = transcoder_of(layout, mlp, **fields), transcoder_of(layout, mlp, **fields)
    plain.load_state_dict(free.state_dict())
    optimizers = [torch.optim.SGD(transcoder.parameters(), lr=1e-2) for transcoder in (free, plain)]
    for batch in torch.randn(15, 20, 5, dtype=torch.float64):
        step(free, batch)
        with every_product(monkeypatch):
            step(plain, batch)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    for a, b in zip(free.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_hooks_on_pre_activations_edit_gates_and_not_what_probes_read(mlp, monkeypatch, layout):
    fields = {"jacobian": {"probe": "pair"}}
    free, plain = transcoder_of(layout, mlp, **fields), transcoder_of(layout, mlp, **fields)
    plain.load_state_dict(free.state_dict())
    for transcoder in (free, plain):
        transcoder.hook_sae_acts_pre.add_hook(lambda hidden_pre, hook: hidden_pre * 1.5)
    x = torch.randn(20, 5, dtype=torch.float64)
    losses = step(free, x)
    with every_product(monkeypatch):
        torch.testing.assert_close(losses, step(plain, x))
    same(free, plain)


@pytest.mark.parametrize("options", [{}, {"estimator": "secant"}], ids=str)
def test_data_probes_make_no_second_product_with_the_encoder(mlp, monkeypatch, options):
    encoded = []
    of_class = TrainingTranscoder.pre_activations

    def counted(self: Any, x: torch.Tensor) -> torch.Tensor:
        encoded.append(len(x))
        return of_class(self, x)

    monkeypatch.setattr(TrainingTranscoder, "pre_activations", counted)
    x = torch.randn(20, 5, dtype=torch.float64)
    step(transcoder_of(("standard", False), mlp, jacobian={"probe": "pair", **options}), x)
    assert encoded == [20]
    sparse = transcoder_of(("topk", True), mlp, jacobian={"probe": "pair", **options})
    dots = []
    monkeypatch.setattr(
        "faithfulness_plugin.jacobian.sparse_region.dot_active",
        lambda x, active, W, known=None: dots.append(known) or dot_active(x, active, W, known),
    )
    step(sparse, x)
    assert all(known is not None for known in dots)


def test_rows_of_a_batch_of_one_have_no_differences(mlp):
    transcoder = transcoder_of(("topk", True), mlp, jacobian={"probe": "pair", "normalize": False})
    losses = step(transcoder, torch.randn(1, 5, dtype=torch.float64))
    assert losses["jacobian_loss"] == 0
    normalized = transcoder_of(("topk", True), mlp, jacobian={"probe": "pair"})
    with pytest.raises(ValueError, match="pass a batch of two rows or more"):
        step(normalized, torch.randn(1, 5, dtype=torch.float64))
