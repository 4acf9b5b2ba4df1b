from typing import Any

import pytest
import torch
from oracles import ARCHITECTURES, SPARSE, DenseRelu, densely, random_transcoder

from faithfulness_plugin import transcoder_jvp, transcoder_vjp
from faithfulness_plugin.jacobian.linear_region import DenseRegion, LinearRegion, Weights, linear_region
from faithfulness_plugin.jacobian.sparse_region import SparseRegion


def rows(n: int = 9) -> torch.Tensor:
    return torch.randn(n, 5, dtype=torch.float64)


def region_of(transcoder: torch.nn.Module, x: torch.Tensor, **options: object) -> LinearRegion:
    region = linear_region(transcoder, x, **options)  # pyright: ignore[reportArgumentType]
    assert region is not None
    return region


@pytest.mark.exact("whole numbers and masks")
@pytest.mark.parametrize("architecture", SPARSE)
@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_the_sparse_region_and_its_gradients_are_the_dense_ones(architecture, skip, training):
    torch.manual_seed(1)
    transcoder: Any = random_transcoder(architecture, skip=skip).train(training)
    if not training and architecture == "batch_topk":
        transcoder.topk_threshold.fill_(0.3)
    x, v, u = rows(), rows(), torch.randn(9, 4, dtype=torch.float64)
    results = []
    for expected in (SparseRegion, DenseRegion):
        region = region_of(transcoder, x)
        assert isinstance(region, expected)
        loss = (
            region.output().square().sum() + region.jvp(v).pow(3).sum() + region.vjp(u).pow(3).sum() + region.masking()
        )
        transcoder.zero_grad()
        loss.backward()
        acts = region.feature_acts.to_dense()
        active = region.active()
        assert torch.equal(active.dense(torch.ones(len(active.features))) > 0, acts > 0)
        results.append((loss, acts, [p.grad for p in transcoder.parameters()]))
        densely(transcoder)
    torch.testing.assert_close(results[0], results[1])


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_where_the_gates_hold_the_transcoder_is_its_region(make_transcoder, architecture):
    transcoder = make_transcoder(architecture, skip=True)
    x, dx = rows(), 1e-9 * rows()
    region = region_of(transcoder, x)
    torch.testing.assert_close(transcoder(x + dx), region.output() + region.jvp(dx), rtol=0, atol=1e-14)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_constant_gates_give_biases_and_thresholds_exactly_no_gradient(make_transcoder, architecture):
    transcoder, x = make_transcoder(architecture), rows()
    region = region_of(transcoder, x)
    loss = region.jvp(rows()).square().sum() + region.vjp(torch.randn(9, 4).double()).square().sum() + region.masking()
    names = [name for name, _ in transcoder.named_parameters() if name not in ("W_enc", "W_dec")]
    assert {"b_enc", "b_dec"} <= set(names)
    grads = torch.autograd.grad(loss, [transcoder.get_parameter(name) for name in names], allow_unused=True)
    assert grads == (None,) * len(names)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_straight_through_gates_are_the_same_forward_and_train_b_enc(make_transcoder, architecture):
    transcoder, x, v = make_transcoder(architecture), rows(40), rows(40)
    region, constant = region_of(transcoder, x, gate_bandwidth=0.3), region_of(transcoder, x)
    torch.testing.assert_close(region.jvp(v), constant.jvp(v))
    torch.testing.assert_close(region.output(), constant.output())
    ours = torch.autograd.grad(region.jvp(v).square().sum(), transcoder.b_enc, retain_graph=True)[0]

    # by hand: the gate's slope is 1 / bandwidth where the score is within half a bandwidth of its threshold
    hidden_pre = x @ transcoder.W_enc + transcoder.b_enc
    score = transcoder.score(hidden_pre) if architecture in SPARSE else hidden_pre
    if architecture == "standard":
        threshold = torch.zeros(())
    elif architecture == "jumprelu":
        threshold = transcoder.threshold.double()
    else:
        threshold = transcoder.gate_threshold(score)
    slope = ((score - threshold).abs() < 0.15) / 0.3
    if architecture in SPARSE:
        slope = slope * transcoder.W_dec.norm(dim=1)
    to_gate = 2 * (region.jvp(v) @ transcoder.W_dec.T) * (v @ transcoder.W_enc)
    torch.testing.assert_close(ours, (to_gate * slope).sum(0))
    assert ours.norm() > 1e-3


def test_straight_through_gates_train_the_thresholds_of_a_jumprelu(make_transcoder):
    transcoder, x, v = make_transcoder("jumprelu"), rows(40), rows(40)
    loss = region_of(transcoder, x, gate_bandwidth=0.3).jvp(v).square().sum()
    to_threshold, to_bias = torch.autograd.grad(loss, [transcoder.threshold, transcoder.b_enc])
    assert to_threshold.norm() > 1e-3
    torch.testing.assert_close(to_threshold.double(), -to_bias, rtol=1e-5, atol=1e-6)  # the gate sees their difference


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("shape", [(5,), (3, 2, 5), (0, 3, 5)])
def test_straight_through_gates_take_rows_of_any_shape(make_transcoder, architecture, shape):
    transcoder = make_transcoder(architecture)
    x = torch.randn(shape, dtype=torch.float64)
    flat = x.reshape(-1, 5)
    results = []
    for inputs in (x, flat):
        Jv = region_of(transcoder, inputs, gate_bandwidth=0.5).jvp(torch.ones_like(inputs))
        grads = torch.autograd.grad(Jv.square().sum(), [transcoder.W_enc, transcoder.b_enc])
        results.append((Jv.reshape(-1, 4), grads))
    torch.testing.assert_close(results[0], results[1])


def test_where_every_feature_stays_nothing_competes(make_transcoder):
    transcoder, x = make_transcoder("topk", k=12), rows()
    score = transcoder.score(x @ transcoder.W_enc + transcoder.b_enc)
    assert not transcoder.gate_threshold(score).any()


def test_gates_cannot_be_made_of_what_has_none(make_transcoder):
    transcoder, x = make_transcoder(), rows()
    for gate in (transcoder.encode(x), linear_region(transcoder, x)):
        with pytest.raises(ValueError, match="need pre-activations"):
            linear_region(transcoder, x, gate=gate, gate_bandwidth=0.1)
        with pytest.raises(ValueError, match="need pre-activations"):
            transcoder_jvp(transcoder, x, x, gate=gate, gate_bandwidth=0.1)
    region = region_of(transcoder, x, gate_bandwidth=0.1)
    Jv = transcoder_jvp(transcoder, x, x, gate=region, gate_bandwidth=0.1)[1]
    assert torch.autograd.grad(Jv.sum(), transcoder.b_enc)[0].any()
    assert torch.autograd.grad(region.masking(), transcoder.b_enc, allow_unused=True) == (None,)  # of constant gates


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_regions_work_in_inference_mode(make_transcoder, architecture):
    transcoder, x, v = make_transcoder(architecture), rows(), rows()
    expected = transcoder_jvp(transcoder, x, v), transcoder_vjp(transcoder, x, x[:, :4])
    with torch.inference_mode():
        torch.testing.assert_close(
            (transcoder_jvp(transcoder, x, v), transcoder_vjp(transcoder, x, x[:, :4])), expected
        )


def test_a_class_that_is_not_known_has_none_until_it_registers():
    assert linear_region(DenseRelu(5, 12, 4), rows()) is None

    class Registered(DenseRelu):
        pass

    @linear_region.register
    def _(student: Registered, x: torch.Tensor, *, gate: Any = None, gate_bandwidth: float | None = None):
        W_enc, W_dec = student.encoder.weight.T, student.decoder.weight.T
        acts = torch.relu(student.encoder(x)) if gate is None else gate
        return DenseRegion(x, Weights(W_enc, W_dec, student.decoder.bias), acts)

    student, x, v = Registered(5, 12, 4), rows(), rows()
    region = region_of(student, x)
    torch.testing.assert_close(region.output(), student(x))
    torch.testing.assert_close(region.jvp(v), torch.func.jvp(student, (x,), (v,))[1])
