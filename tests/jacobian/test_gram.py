import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracles import ARCHITECTURES, GatedMlp, assert_gram_is_explicit, random_transcoder
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from faithfulness_plugin import AbsNetwork
from faithfulness_plugin.jacobian.exact import transcoder_jacobian
from faithfulness_plugin.jacobian.gram import JacobianGram, jacobian_by_feature
from faithfulness_plugin.jacobian.linear_region import Weights, linear_region
from faithfulness_plugin.layers.mlp_weights import mlp_weights

ACTIVATIONS = {"relu": nn.ReLU(), "silu": nn.SiLU(), "gelu": nn.GELU(), "tanh": nn.Tanh()}


@given(
    architecture=st.sampled_from(list(ARCHITECTURES)),
    skip=st.booleans(),
    gated=st.booleans(),
    act=st.sampled_from(list(ACTIVATIONS)),
    in_data_directions=st.booleans(),
    d_in=st.integers(1, 5),
    d_out=st.integers(1, 4),
    n_rows=st.integers(2, 8),
)
def test_gram_is_the_explicit_jacobians(architecture, skip, gated, act, in_data_directions, d_in, d_out, n_rows):
    transcoder = random_transcoder(architecture, d_in, d_out, 9, skip=skip)
    layer = nn.Sequential(nn.Linear(d_in, 7), ACTIVATIONS[act], nn.Linear(7, d_out)).double()
    if gated:
        layer = GatedMlp(d_in, 7, d_out, ACTIVATIONS[act])
    x = torch.randn(n_rows, d_in, dtype=torch.float64)
    assert_gram_is_explicit(layer, transcoder, x, in_data_directions=in_data_directions)


def test_rows_are_taken_in_parts_that_fit(make_transcoder, monkeypatch):
    transcoder, layer = make_transcoder("standard", d_out=5), AbsNetwork(5).double()
    x = torch.randn(50, 5, dtype=torch.float64)  # rows with unlike numbers of active features
    weights, region = mlp_weights(layer), linear_region(transcoder, x)
    assert weights is not None
    assert region is not None
    gram = JacobianGram(Weights.of(transcoder), weights)
    at_once = gram.products(region, x)
    most = int(region.active().offsets.diff().max())
    bound = most * 10 + 2 * most**2
    monkeypatch.setattr("faithfulness_plugin.jacobian.gram.CHUNK", bound)
    largest = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            result = func(*args, **(kwargs or {}))
            if func is torch.ops.aten.bmm.default:
                largest = max(largest, result.numel())
            return result

    with Watch():
        torch.testing.assert_close(vars(gram.products(region, x)), vars(at_once))
    assert 0 < largest <= bound


def test_without_active_features_the_transcoder_has_no_jacobian(make_transcoder):
    transcoder, layer = make_transcoder("standard", d_out=5), AbsNetwork(5).double()
    with torch.no_grad():
        transcoder.b_enc.fill_(-100)
    x = torch.randn(4, 5, dtype=torch.float64)
    weights, region = mlp_weights(layer), linear_region(transcoder, x)
    assert weights is not None
    assert region is not None
    products = JacobianGram(Weights.of(transcoder), weights).products(region, x)
    assert products.transcoder.tolist() == products.inner.tolist() == products.cosine.tolist() == [0.0] * 4
    torch.testing.assert_close(products.squared_error, products.layer)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_transcoders_of_another_dtype_are_compared_in_the_layers(make_transcoder, dtype):
    transcoder, layer = make_transcoder("topk", d_out=5), AbsNetwork(5).double()
    x = torch.randn(9, 5, dtype=torch.float64)
    weights = mlp_weights(layer)
    assert weights is not None
    results = []
    for student in (transcoder, random_transcoder("topk", d_out=5, dtype=str(dtype).removeprefix("torch."))):
        student.load_state_dict(transcoder.state_dict())
        region = linear_region(student, x)
        assert region is not None
        results.append(JacobianGram(Weights.of(student), weights).products(region, x).transcoder)
    assert results[1].dtype == torch.float64
    torch.testing.assert_close(results[0], results[1], rtol=0.1, atol=0.05)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("skip", [False, True])
def test_parts_are_inner_products_with_the_whole_jacobian(make_transcoder, architecture, skip):
    transcoder, x = make_transcoder(architecture, skip=skip).eval(), torch.randn(9, 5, dtype=torch.float64)
    region = linear_region(transcoder, x)
    assert region is not None
    parts, whole = jacobian_by_feature(region)
    J, acts = transcoder_jacobian(transcoder, x).detach(), transcoder.encode(x)
    W_enc, W_dec = transcoder.W_enc.detach(), transcoder.W_dec.detach()
    for i in range(12):
        part = torch.outer(W_dec[i], W_enc[:, i])
        expected = sum((part * J[n]).sum() for n in range(9) if acts[n, i] > 0)
        torch.testing.assert_close(parts[i], torch.as_tensor(expected, dtype=torch.float64))
    torch.testing.assert_close(whole, J.square().sum())
    skipped = (J * transcoder.W_skip).sum() if skip else 0.0
    torch.testing.assert_close(parts.sum() + skipped, whole)


def test_rows_where_nothing_fires_have_no_parts(make_transcoder):
    transcoder = make_transcoder().eval()
    with torch.no_grad():
        transcoder.b_enc.fill_(-100)
    region = linear_region(transcoder, torch.randn(3, 5, dtype=torch.float64))
    assert region is not None
    parts, whole = jacobian_by_feature(region)
    assert not parts.any()
    assert whole == 0
