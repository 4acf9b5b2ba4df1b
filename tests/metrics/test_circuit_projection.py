import numpy as np
import pytest
import torch
from oracles import exact_abs_transcoder, plant_datapoint_feature, sparse_decomposition

from faithfulness_plugin import AbsInputs
from faithfulness_plugin.metrics import circuit_projection
from faithfulness_plugin.metrics.circuit_projection import ALPHA
from faithfulness_plugin.toy.circuits import abs_circuits, datapoint_circuit

D = 4


@pytest.fixture
def rows() -> torch.Tensor:
    return next(AbsInputs(D, density=0.5, repeat_frac=0.1, batch_size=400)).double()


@pytest.fixture
def circuits():
    point = AbsInputs(D).point.double()
    return [*abs_circuits(D), datapoint_circuit(point)]


def test_the_layers_own_features_are_their_own_circuits(rows, circuits):
    result = circuit_projection(exact_abs_transcoder(D, 9), rows, circuits)
    assert result.labels[:2] == ("ReLU(x1)", "ReLU(-x1)")
    assert result.labels[-1] == "datapoint p"
    own = [result.labels.index(f"ReLU({sign}x{i + 1})") for sign in ("", "-") for i in range(D)]
    expected = np.zeros((9, 9))
    expected[own, range(8)] = 1 - ALPHA
    np.testing.assert_allclose(result.weights, expected, atol=1e-9)
    np.testing.assert_allclose(result.residual, [ALPHA] * 8 + [0], atol=1e-6)  # the ninth is dead
    assert (result.norms > 0).tolist() == [True] * 8 + [False]


def test_a_datapoint_feature_is_told_apart(rows, circuits):
    transcoder = exact_abs_transcoder(D, 9)
    plant_datapoint_feature(transcoder, AbsInputs(D).point.double(), 8)
    weights = circuit_projection(transcoder, rows, circuits).weights[:, 8]
    assert weights.argmax() == len(circuits) - 1
    assert weights[-1] > 0.95


def test_a_planted_mixture_is_recovered_and_an_alien_goes_to_the_residual(rows, circuits):
    class Mixture:
        """Feature 0: 0.6 of one circuit and 0.8 of another that writes the same; feature 1: what no circuit has."""

        W_dec = torch.eye(D, dtype=torch.float64)[[0, 1]]

        def encode(self, x: torch.Tensor) -> torch.Tensor:
            up, down = torch.relu(x[:, 0]), torch.relu(-x[:, 0])
            own = 0.6 * up / up.norm() + 0.8 * down / down.norm()
            return torch.stack([own, torch.relu(x[:, 3].square())], dim=1)

        def decode(self, feature_acts: torch.Tensor) -> torch.Tensor:
            return feature_acts @ self.W_dec

    result = circuit_projection(Mixture(), rows, circuits)
    np.testing.assert_allclose(result.weights[:2, 0], [0.6, 0.8], atol=0.02)
    assert result.weights[2:, 0].max() < 0.02
    assert result.residual[0] < 0.03
    assert result.residual[1] > 0.7


def test_the_weights_are_joint_and_not_cosines(rows, circuits):
    # the datapoint circuit overlaps with ReLU(x1): a cosine would give it a share of the pure feature
    pure = exact_abs_transcoder(D)
    u, v = torch.relu(rows[:, 0]), (rows == AbsInputs(D).point).all(-1).double()
    cosine = (u @ v) / u.norm() / v.norm() / 3**0.5
    assert cosine > 0.3
    assert circuit_projection(pure, rows, circuits).weights[-1, 0] == pytest.approx(0, abs=1e-9)


def test_it_is_the_general_solvers_answer_on_whole_matrices(rows, circuits, make_transcoder):
    transcoder = make_transcoder(d_in=D, d_out=D, d_sae=10)
    result = circuit_projection(transcoder, rows, circuits)
    acts = transcoder.encode(rows).detach().numpy()
    library = [np.outer(c.activation(rows).numpy(), c.direction.numpy()) for c in circuits]
    for i in range(10):
        contribution = np.outer(acts[:, i], transcoder.W_dec[i].detach().numpy())
        expected = sparse_decomposition(contribution, library, ALPHA)
        np.testing.assert_allclose(result.weights[:, i], expected, atol=1e-5)
        L = np.stack([m.ravel() / np.linalg.norm(m) for m in library], axis=1)
        c = contribution.ravel() / np.linalg.norm(contribution)
        assert result.residual[i] == pytest.approx(np.linalg.norm(c - L @ expected), abs=1e-5)
        assert result.norms[i] == pytest.approx(np.linalg.norm(contribution) / np.sqrt(len(rows)))


def test_circuits_that_do_not_occur_or_repeat_are_refused(circuits):
    transcoder = exact_abs_transcoder(D)
    clean = next(AbsInputs(D, density=0.5, batch_size=50)).double()
    with pytest.raises(ValueError, match=r"never active on these rows: datapoint p\. Pass rows"):
        circuit_projection(transcoder, clean, circuits)
    with pytest.raises(ValueError, match="no circuits"):
        circuit_projection(transcoder, clean, [])
    with pytest.raises(ValueError, match="linearly dependent"):
        circuit_projection(transcoder, clean, [circuits[0], circuits[0]])


def test_to_dict_is_ready_for_json(rows, circuits):
    fields = circuit_projection(exact_abs_transcoder(D), rows, circuits).to_dict()
    assert np.shape(fields["weights"]) == (9, 8)
    assert isinstance(fields["residual"], list)
