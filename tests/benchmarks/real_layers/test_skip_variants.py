from typing import Any

import pytest
import torch
from torch import nn

from faithfulness_plugin.benchmarks.real_layers.arms import Arm
from faithfulness_plugin.benchmarks.real_layers.kinds import Kind
from faithfulness_plugin.benchmarks.real_layers.skip_variants import plain_skip, vary_skip
from faithfulness_plugin.benchmarks.real_layers.variation import Variation
from faithfulness_plugin.training import train_transcoder
from faithfulness_plugin.transcoders.seeded import made_with_seed

LAYER = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 5))


def made(coefficient: float = 0.5) -> Any:
    arm = Arm(skip=True, term="jvp", probe="pair", coefficient=coefficient)
    return made_with_seed(arm.config(Kind(sparsity=2), d_in=6, d_out=5, d_sae=9, device="cpu"), 0)


def trained(transcoder: Any, steps: int = 20) -> Any:
    x = torch.randn(64, 6, generator=torch.Generator().manual_seed(2))
    result = train_transcoder(
        transcoder, LAYER, iter(x.expand(steps, -1, -1)), n_steps=steps, lr=1e-2, batch_size=64, progress=False
    )
    return result.transcoder


@pytest.mark.parametrize("rank", [1, 3])
def test_a_low_rank_skip_connection_learns_and_ends_as_a_matrix_of_that_rank(rank):
    transcoder = made()
    vary_skip(transcoder, Variation(skip_rank=rank), seed=4)
    torch.testing.assert_close(transcoder.W_skip, torch.zeros(5, 6))
    trained(transcoder)
    plain_skip(transcoder)
    assert type(transcoder) is type(made())
    assert dict(transcoder.named_parameters()).keys() == dict(made().named_parameters()).keys()
    assert torch.linalg.matrix_rank(transcoder.W_skip) == rank


def test_factors_are_those_of_the_seed():
    drawn = []
    for seed in (1, 1, 2):
        transcoder = made()
        vary_skip(transcoder, Variation(skip_rank=2), seed)
        drawn.append(transcoder.parametrizations.W_skip.original1.detach())
    torch.testing.assert_close(drawn[0], drawn[1])
    assert (drawn[0] - drawn[2]).abs().max() > 0.01


def test_a_skip_connection_by_the_term_alone_has_the_gradient_of_the_term():
    x = torch.randn(32, 6)
    found = {}
    for by_term in (False, True):
        transcoder = made().set_layer(LAYER)
        if by_term:
            vary_skip(transcoder, Variation(skip_by_term=True))
        step = {"jacobian": 0.5}
        output = transcoder.training_forward_pass(step_of(x, step))
        for name in ("jacobian_loss", "mse_loss"):
            grads = torch.autograd.grad(
                output.losses[name], [transcoder.W_skip, transcoder.W_dec], retain_graph=True, allow_unused=True
            )
            found[by_term, name] = grads
    own, of_output = found[True, "jacobian_loss"], found[True, "mse_loss"]
    torch.testing.assert_close(own, found[False, "jacobian_loss"])
    assert of_output[0] is None
    torch.testing.assert_close(of_output[1], found[False, "mse_loss"][1])


def step_of(x: torch.Tensor, coefficients: dict[str, float]) -> Any:
    from sae_lens.saes.sae import TrainStepInput

    return TrainStepInput(
        sae_in=x, coefficients=coefficients, dead_neuron_mask=None, n_training_steps=0, is_logging_step=False
    )
