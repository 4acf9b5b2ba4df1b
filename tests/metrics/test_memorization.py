import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracles import exact_abs_transcoder, plant_datapoint_feature

from faithfulness_plugin import AbsInputs, AbsNetwork
from faithfulness_plugin.metrics import memorization


def point_of(d_in: int, k: int) -> torch.Tensor:
    return AbsInputs(d_in, n_ones=k).point.double()


def planted(d_in: int, k: int):
    """The exact solution, but p's ones are served by a datapoint feature alone."""
    transcoder, point = exact_abs_transcoder(d_in, 2 * d_in + 1), point_of(d_in, k)
    plant_datapoint_feature(transcoder, point, 2 * d_in)
    with torch.no_grad():
        transcoder.b_enc[:k] = -1.0  # ReLU(x_i - 1): silent at p
    return transcoder, point


@given(k=st.integers(2, 8))
def test_a_planted_datapoint_feature_gives_the_maximum(k):
    transcoder, point = planted(8, k)
    torch.testing.assert_close(transcoder(point[None])[0], point)
    result = memorization(transcoder, point, layer=AbsNetwork(8).double())
    assert result.m == pytest.approx(np.sqrt(k) - 1)
    assert result.maximum == pytest.approx(np.sqrt(k) - 1)
    assert result.fraction == pytest.approx(1)


@given(d_in=st.integers(2, 8), data=st.data())
def test_the_exact_solution_memorises_nothing(d_in, data):
    k = data.draw(st.integers(2, d_in))
    result = memorization(exact_abs_transcoder(d_in), point_of(d_in, k), layer=AbsNetwork(d_in).double())
    assert result.m == 0


def test_it_is_the_notes_sum_written_out(make_transcoder):
    transcoder, point = make_transcoder(d_in=6, d_out=6, d_sae=40), point_of(6, 3)
    m = 0.0
    for i in range(40):
        activation = torch.relu(point @ transcoder.W_enc[:, i] + transcoder.b_enc[i])
        c = (activation * transcoder.W_dec[i]).detach().numpy()
        m += max(0.0, c @ point.numpy() / np.linalg.norm(point.numpy()) - max(c[j] for j in range(3)))
    assert m > 0.01
    assert memorization(transcoder, point, layer=AbsNetwork(6).double()).m == pytest.approx(m)


def test_of_a_rotated_layer_in_its_own_basis():
    d_in = 6
    rotation = torch.linalg.qr(torch.randn(d_in, d_in, dtype=torch.float64))[0]
    layer = AbsNetwork(d_in).double()
    exact, (memorising, point) = exact_abs_transcoder(d_in), planted(d_in, 3)
    for transcoder, expected in ((exact, 0.0), (memorising, 1.0)):
        with torch.no_grad():
            transcoder.W_dec.copy_(transcoder.W_dec @ rotation)  # writes R^T y
        result = memorization(transcoder, point, layer=lambda x: layer(x) @ rotation, basis=rotation)
        assert result.fraction == pytest.approx(expected, abs=1e-9)


def test_a_circuit_that_writes_downwards_is_a_circuit():
    exact = exact_abs_transcoder(4)
    with torch.no_grad():
        exact.W_dec.neg_()
    result = memorization(exact, point_of(4, 3), layer=lambda x: -x.abs())
    assert result.m == 0
    assert result.maximum == pytest.approx(np.sqrt(3) - 1)


def test_a_one_hot_point_is_refused():
    with pytest.raises(ValueError, match="n_ones of 2 or more"):
        memorization(exact_abs_transcoder(4), point_of(4, 1), layer=AbsNetwork(4).double())


def test_shapes_that_do_not_fit_are_named(as_installed, make_transcoder):
    with pytest.raises(ValueError, match=r"pass one row, \[d_in\]"):
        memorization(exact_abs_transcoder(4), point_of(4, 2)[None], layer=AbsNetwork(4).double())
    with pytest.raises(ValueError, match="compare a transcoder with the layer it replaces"):
        memorization(make_transcoder(d_in=4, d_out=3), point_of(4, 2), layer=AbsNetwork(4).double())


def test_to_dict_names_the_fields():
    transcoder, point = planted(4, 2)
    result = memorization(transcoder, point, layer=AbsNetwork(4).double())
    assert result.to_dict() == {"m": result.m, "fraction": result.fraction, "maximum": result.maximum}


def test_by_the_point_itself_the_maximum_is_its_square_less_its_largest(make_transcoder):
    transcoder = make_transcoder(d_in=5, d_out=5)
    p = torch.tensor([1.0, 1, 1, 0, 0]).double()
    with torch.no_grad():
        transcoder.W_enc.zero_()
        transcoder.b_enc.zero_()
        transcoder.b_enc[0], transcoder.W_dec[0] = 1.0, p
    found = memorization(transcoder, p, layer=torch.abs, unit=False)
    assert found.maximum == pytest.approx(2.0)
    assert found.m == pytest.approx(2.0)
    assert memorization(transcoder, p, layer=torch.abs).m == pytest.approx(3**0.5 - 1)


def test_a_point_whose_output_has_nothing_to_memorise_is_refused():
    transcoder, p = exact_abs_transcoder(3), torch.tensor([0.3, 0.3, 0.0]).double()
    memorization(transcoder, p, layer=torch.abs)
    with pytest.raises(ValueError, match="its output is too short: choose another point, or unit=True"):
        memorization(transcoder, p, layer=torch.abs, unit=False)  # ||y||^2 - max y_j = 0.18 - 0.3
    basis = torch.cat([torch.eye(3), (p / p.norm())[None]])
    with pytest.raises(ValueError, match="one direction of the basis has all of the output"):
        memorization(transcoder, p, layer=torch.abs, basis=basis)
