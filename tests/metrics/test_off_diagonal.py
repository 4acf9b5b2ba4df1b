import pytest
import torch
from oracles import exact_abs_transcoder, jacobian_by_rows, plant_datapoint_feature

from faithfulness_plugin.metrics import off_diagonal_energy


def test_of_the_exact_solution_is_zero_and_of_a_datapoint_feature_almost_all():
    point = torch.tensor([1.0, 1, 1, 0, 0], dtype=torch.float64)
    assert off_diagonal_energy(exact_abs_transcoder(5), point).energy == 0
    transcoder = exact_abs_transcoder(5, 11)
    plant_datapoint_feature(transcoder, point, 10)
    with torch.no_grad():
        transcoder.b_enc[:3] = -1.0
    result = off_diagonal_energy(transcoder, point)
    assert result.energy == pytest.approx(6 / 9)  # all entries of a 3 x 3 block alike
    assert result.norm == pytest.approx(10 * 6**0.5)


def test_it_is_its_formula(make_transcoder):
    transcoder, point = make_transcoder(d_in=4, d_out=4), torch.randn(4, dtype=torch.float64)
    J = jacobian_by_rows(transcoder, point)
    off = sum(J[i, j].item() ** 2 for i in range(4) for j in range(4) if i != j)
    result = off_diagonal_energy(transcoder, point)
    assert result.energy == pytest.approx(off / J.square().sum().item())
    assert result.norm == pytest.approx(off**0.5)


def test_a_transcoder_that_is_flat_there_has_none(make_transcoder):
    transcoder = make_transcoder(d_out=5)
    with torch.no_grad():
        transcoder.b_enc.fill_(-100.0)
    assert off_diagonal_energy(transcoder, torch.zeros(5).double()).to_dict() == {"energy": 0.0, "norm": 0.0}


def test_widths_that_differ_are_refused(make_transcoder):
    with pytest.raises(ValueError, match="d_in = d_out"):
        off_diagonal_energy(make_transcoder(), torch.zeros(5).double())
