import pytest
import torch
from oracles import exact_abs_transcoder, plant_datapoint_feature

from faithfulness_plugin import AbsInputs
from faithfulness_plugin.metrics import feature_recovery
from faithfulness_plugin.toy.circuits import abs_circuits

D = 4


@pytest.fixture
def rows() -> torch.Tensor:
    return next(AbsInputs(D, density=0.5, batch_size=500)).double()


def test_of_the_exact_solution_in_any_order(rows):
    transcoder = exact_abs_transcoder(D, 12)
    order = torch.randperm(12)
    with torch.no_grad():
        transcoder.W_enc.copy_(transcoder.W_enc[:, order].clone())
        transcoder.b_enc.copy_(transcoder.b_enc[order].clone())
        transcoder.W_dec.copy_(transcoder.W_dec[order].clone())
    result = feature_recovery(transcoder, rows, abs_circuits(D))
    assert (result.recovered, result.n_circuits, result.n_live) == (8, 8, 8)
    assert result.mean_cosine == pytest.approx(1)
    assert result.precision == result.recall == 1


def test_a_lost_circuit_costs_recall_and_an_extra_feature_precision(rows):
    transcoder = exact_abs_transcoder(D, 9)
    plant_datapoint_feature(transcoder, AbsInputs(D).point.double(), 8)
    with torch.no_grad():
        transcoder.b_enc[8] += 25  # wide enough to fire on clean rows
        transcoder.W_dec[0] = 0  # ReLU(x1) writes nothing any more
    result = feature_recovery(transcoder, rows, abs_circuits(D))
    assert result.recovered == 7
    assert result.recall == 7 / 8
    assert result.n_live == 8
    assert result.precision == 7 / 8


def test_one_feature_serves_one_circuit_only(rows):
    transcoder = exact_abs_transcoder(D)
    with torch.no_grad():  # the feature of ReLU(-x1) becomes a second ReLU(x1)
        transcoder.W_enc[:, D] = transcoder.W_enc[:, 0]
    result = feature_recovery(transcoder, rows, abs_circuits(D))
    assert result.recovered == 7
    assert result.precision == 7 / 8


def test_a_feature_that_writes_the_other_way_is_no_match(rows):
    transcoder = exact_abs_transcoder(D)
    with torch.no_grad():
        transcoder.W_dec.neg_()
    assert feature_recovery(transcoder, rows, abs_circuits(D)).mean_cosine == 0


def test_a_dead_transcoder_recovers_nothing(rows):
    transcoder = exact_abs_transcoder(D)
    with torch.no_grad():
        transcoder.b_enc.fill_(-10.0)
    result = feature_recovery(transcoder, rows, abs_circuits(D))
    assert (result.recovered, result.n_live, result.precision, result.mean_cosine) == (0, 0, 0.0, 0.0)
