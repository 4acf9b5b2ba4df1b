"""Augmentation from stored secants: the control without its layer."""

from typing import Any

import pytest
import torch
from sae_lens.saes.sae import TrainStepInput

from faithfulness_plugin.benchmarks.methods.controls import NoiseAugmentedTranscoderConfig
from faithfulness_plugin.jacobian.estimators.secant import layer_secant
from faithfulness_plugin.jacobian.layer_response import LayerResponse
from faithfulness_plugin.jacobian.matching_config import JacobianMatchingConfig
from faithfulness_plugin.jacobian.packed_rows import PackedRows
from faithfulness_plugin.layers.mlp_weights import mlp_weights
from faithfulness_plugin.layers.stored_layer import StoredLayer
from faithfulness_plugin.transcoders.seeded import made_with_seed


def made(kind: str, scale: float = 0.5) -> Any:
    return made_with_seed(
        NoiseAugmentedTranscoderConfig(
            d_in=5,
            d_out=4,
            d_sae=9,
            dtype="float64",
            augmentation_kind=kind,  # pyright: ignore[reportArgumentType]
            augmentation_coefficient=2.0,
            augmentation_scale=scale,
        ),
        0,
    )


def step(transcoder: Any, batch: torch.Tensor) -> Any:
    coefficients = {"sparsity": 0.0, "augmentation": 2.0}
    return transcoder.training_forward_pass(
        TrainStepInput(
            sae_in=batch, coefficients=coefficients, dead_neuron_mask=None, n_training_steps=0, is_logging_step=False
        )
    )


@pytest.mark.parametrize(("kind", "probe"), [("interpolation", "difference"), ("noise", "rademacher")])
def test_the_outputs_beside_the_rows_are_the_layers(mlp, kind, probe):
    x, v = torch.randn(2, 8, 5, dtype=torch.float64)
    product = JacobianMatchingConfig(estimator="secant", probe=probe, radius=0.5)
    rows = PackedRows(5, 4, product, step=0.3)
    y, Jv = layer_secant(mlp, x, v[None], 0.3)
    transcoder = made(kind).set_layer(rows)
    found = step(transcoder, rows.pack(LayerResponse(x, y, v[None], Jv))).losses["augmentation_loss"]
    moved = x + 0.3 * v
    torch.testing.assert_close(found, 2 * (transcoder(moved) - mlp(moved)).square().sum(-1).mean())
    found.backward()
    assert transcoder.W_enc.grad.abs().sum() > 0


@pytest.mark.parametrize("kind", ["interpolation", "noise"])
def test_stored_weights_are_asked_at_the_other_points_as_the_layer_is(kind):
    layer = torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.SiLU(), torch.nn.Linear(7, 4)).double()
    x, weights = torch.randn(8, 5, dtype=torch.float64), mlp_weights(layer)
    assert weights is not None
    rows = PackedRows(5, 4, known=StoredLayer(weights))
    packed = rows.pack(LayerResponse(x, layer(x).detach()))
    found, expected = (step(made(kind).set_layer(of), batch).losses for of, batch in ((rows, packed), (layer, x)))
    for name in expected:
        torch.testing.assert_close(found[name], expected[name])


NEEDED = "augmentation needs outputs beside the rows"
SECANT = {"estimator": "secant", "probe": "difference"}


@pytest.mark.parametrize(
    ("product", "message"),
    [
        (None, NEEDED),
        ({"probe": "difference"}, NEEDED),
        ({**SECANT, "central": True}, NEEDED),
        ({**SECANT, "probe": "pair"}, "bring pair secants of radius 0.5, and the control takes difference"),
        ({**SECANT, "radius": 0.1}, r"of radius 0.1, .* of 0.5: read the rows with"),
    ],
)
def test_rows_that_bring_something_else_are_refused(mlp, product, message):
    x, v = torch.randn(2, 8, 5, dtype=torch.float64)
    config = None if product is None else JacobianMatchingConfig(**product)
    rows, y = PackedRows(5, 4, config), mlp(x).detach()
    says = LayerResponse(x, y) if product is None else LayerResponse(x, y, v[None], y[None])
    with pytest.raises(ValueError, match=message):
        step(made("interpolation").set_layer(rows), rows.pack(says))
