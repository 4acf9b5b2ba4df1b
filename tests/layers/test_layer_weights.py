import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracles import ARCHITECTURES, GatedMlp, ThenNorm, assert_gram_is_explicit, jacobian_by_rows, random_transcoder
from torch import Tensor, nn

from faithfulness_plugin.layers.mlp_weights import checked_mlp_weights
from faithfulness_plugin.layers.normed_mlp import NormedMlp
from faithfulness_plugin.metrics.jacobian_error import jacobian_error


class OffsetRMSNorm(nn.Module):
    """Gemma's: the scale is 1 + weight."""

    def __init__(self, d: int) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(0.3 * torch.randn(d, dtype=torch.float64)), 1e-3

    def forward(self, y: Tensor) -> Tensor:
        return y / (y.square().mean(-1, keepdim=True) + self.eps).sqrt() * (1 + self.weight)


def layer_norm(d: int) -> nn.Module:
    norm = nn.LayerNorm(d, eps=1e-3).double()
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    return norm


def rms_norm(d: int) -> nn.Module:
    norm = nn.RMSNorm(d, eps=1e-3).double()
    nn.init.normal_(norm.weight)
    return norm


NORMS = {"LayerNorm": layer_norm, "RMSNorm": rms_norm, "1 + w": OffsetRMSNorm}


@given(
    norm=st.sampled_from(list(NORMS)),
    gated=st.booleans(),
    d_in=st.integers(1, 5),
    d_out=st.integers(3, 6),
    n_rows=st.integers(1, 6),
)
def test_the_weights_give_the_values_and_the_jacobians_of_an_mlp_and_its_norm(norm, gated, d_in, d_out, n_rows):
    mlp = GatedMlp(d_in, 7, d_out) if gated else nn.Sequential(nn.Linear(d_in, 7), nn.GELU(), nn.Linear(7, d_out))
    layer, x = ThenNorm(mlp.double(), NORMS[norm](d_out)), torch.randn(n_rows, d_in, dtype=torch.float64)
    weights = checked_mlp_weights(layer, x)
    assert isinstance(weights, NormedMlp)
    assert weights.centred == (norm == "LayerNorm")
    J = torch.stack([jacobian_by_rows(layer, row) for row in x])
    terms, v, u = weights.jacobian(x), torch.randn_like(x), torch.randn(n_rows, d_out, dtype=torch.float64)
    torch.testing.assert_close(weights.output(x), layer(x))
    torch.testing.assert_close(terms.matrix(), J)
    torch.testing.assert_close(terms.jvp(v), (J @ v[..., None])[..., 0])
    torch.testing.assert_close(terms.vjp(u), (J.mT @ u[..., None])[..., 0])


@given(
    architecture=st.sampled_from(list(ARCHITECTURES)),
    norm=st.sampled_from(list(NORMS)),
    skip=st.booleans(),
    in_data_directions=st.booleans(),
    d_in=st.integers(1, 5),
    n_rows=st.integers(2, 8),
)
def test_gram_is_the_explicit_jacobians_with_a_norm_as_well(architecture, norm, skip, in_data_directions, d_in, n_rows):
    layer = ThenNorm(GatedMlp(d_in, 7, 4), NORMS[norm](4))
    transcoder, x = random_transcoder(architecture, d_in, 4, 9, skip=skip), torch.randn(n_rows, d_in).double()
    assert_gram_is_explicit(layer, transcoder, x, in_data_directions=in_data_directions)


def test_the_error_of_a_transcoder_of_it_is_had_by_gram_matrices():
    layer, transcoder = ThenNorm(GatedMlp(5, 7, 4), rms_norm(4)), random_transcoder("topk")
    x = torch.randn(9, 5, dtype=torch.float64)
    known, opaque = jacobian_error(transcoder, layer, x), jacobian_error(transcoder, lambda x: layer(x), x)
    assert (known.method, opaque.method) == ("gram", "products")
    for name in ("relative_error", "cosine", "relative_error_data", "cosine_difference"):
        torch.testing.assert_close(getattr(known, name), getattr(opaque, name), rtol=1e-6, atol=1e-9)


class Doubled(OffsetRMSNorm):
    """Has an eps, and is none of these norms."""

    def forward(self, y: Tensor) -> Tensor:
        return super().forward(y) + y


@pytest.mark.parametrize("norm", [nn.Identity(), nn.Tanh(), Doubled(4), nn.RMSNorm(4).double()], ids=str)
def test_another_function_after_the_mlp_is_opaque(norm):
    layer = ThenNorm(GatedMlp(5, 7, 4), norm)  # the last one has no eps of its own
    assert checked_mlp_weights(layer, torch.randn(6, 5, dtype=torch.float64)) is None
