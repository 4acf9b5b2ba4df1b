from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import GatedMlp, jacobian_by_rows, random_transcoder
from torch import Tensor

from faithfulness_plugin.jacobian.exact import covariance_root, layer_jacobian
from faithfulness_plugin.metrics import jacobian_error, jacobian_floor
from faithfulness_plugin.metrics.jacobian_error import jacobian_products
from faithfulness_plugin.metrics.jacobian_floor import JacobianEnergies, jacobian_energies
from faithfulness_plugin.metrics.result import DIRECTIONS


def correlated(n: int = 20, d: int = 5) -> Tensor:
    return torch.randn(n, d, dtype=torch.float64) @ torch.randn(d, d, dtype=torch.float64) + 1


def roots(x: Tensor, row: Tensor) -> list[Tensor]:
    """R of each kind at one row, R R^T the directions' second moment."""
    C = torch.cov(x.T, correction=0)
    to_mean = x.mean(0) - row
    return [torch.eye(x.shape[1]).to(x), *(torch.linalg.cholesky(M) for M in (C, C + to_mean.outer(to_mean)))]


@pytest.mark.parametrize("architecture", ["standard", "topk", "jumprelu"])
@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("gated", [False, True])
def test_it_is_what_the_singular_values_beyond_the_active_features_hold(mlp, architecture, skip, gated):
    transcoder = random_transcoder(architecture, skip=skip, **({"k": 2} if architecture == "topk" else {}))
    layer, x = GatedMlp(5, 7, 4) if gated else mlp, correlated()
    lost, energy = [0.0] * 3, [0.0] * 3
    active = [int((transcoder.encode(row[None]) > 0).sum()) for row in x]
    for row, r in zip(x, active, strict=True):
        J = jacobian_by_rows(layer, row)
        for i, R in enumerate(roots(x, row)):
            within_reach = J - transcoder.W_skip.detach() if skip else J
            lost[i] += torch.linalg.svdvals(within_reach @ R)[r:].square().sum().item()
            energy[i] += (J @ R).square().sum().item()
    found = jacobian_floor(transcoder, layer, x).to_dict()
    assert list(found.values()) == pytest.approx([a / b for a, b in zip(lost, energy, strict=True)], abs=1e-10)
    assert min(active) < 4  # or it would be 0 everywhere
    assert list(found) == ["relative_error", "relative_error_data", "relative_error_difference"]


@settings(max_examples=50)
@given(
    seed=st.integers(0, 2**32),
    architecture=st.sampled_from(["standard", "topk", "jumprelu"]),
    skip=st.booleans(),
    gated=st.booleans(),
    d_sae=st.integers(3, 20),
)
def test_no_transcoder_gets_below_it(seed, architecture, skip, gated, d_sae):
    torch.manual_seed(seed)
    transcoder = random_transcoder(architecture, d_sae=d_sae, skip=skip)
    layer = GatedMlp(5, 7, 4) if gated else torch.nn.Sequential(GatedMlp(5, 7, 6), torch.nn.Linear(6, 4).double())
    x = correlated(6)
    error, floor = jacobian_error(transcoder, layer, x), jacobian_floor(transcoder, layer, x)
    for name, least in floor.to_dict().items():
        assert getattr(error, name) >= least - 1e-9


@pytest.mark.parametrize("r", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("kind", DIRECTIONS)
def test_the_top_singular_directions_at_a_row_reach_it_there(mlp, r, kind):
    x = correlated()
    J, R = layer_jacobian(mlp, x[0]), dict(zip(DIRECTIONS, roots(x, x[0]), strict=True))[kind]
    U, S, Vt = torch.linalg.svd(J @ R)
    transcoder = random_transcoder("standard", d_sae=6)
    with torch.no_grad():
        for weight in transcoder.parameters():
            weight.zero_()
        transcoder.W_enc[:, :r] = torch.linalg.inv(R).T @ Vt[:r].T
        transcoder.W_dec[:r] = (U[:, :r] * S[:r]).T
        transcoder.b_enc[:r], transcoder.b_enc[r:] = 1e3, -1e3
    energies = jacobian_energies(mlp, x)
    here = JacobianEnergies(*({k: of[k][:1] for k in DIRECTIONS} for of in (energies.squares, energies.layer)))
    floor = dict(zip(DIRECTIONS, here.floor(torch.tensor([r])).to_dict().values(), strict=True))[kind]
    products = jacobian_products(transcoder, mlp, x).along[kind]
    reached = (products.squared_error / products.layer)[0].item()
    assert reached == pytest.approx(floor, abs=1e-10)
    assert floor == pytest.approx((S[r:].square().sum() / S.square().sum()).item(), abs=1e-10)


def test_directions_can_be_those_of_other_rows(mlp):
    """Two rows alone vary in one direction: along that, one feature reaches everything."""
    transcoder, among = random_transcoder("topk", k=1), correlated(40)
    x = among[:2]
    assert jacobian_floor(transcoder, mlp, x).relative_error_data == pytest.approx(0, abs=1e-12)
    lost = energy = 0.0
    R = roots(among, among[0])[1]
    for row in x:
        J = jacobian_by_rows(mlp, row) @ R
        lost += torch.linalg.svdvals(J)[1:].square().sum().item()
        energy += J.square().sum().item()
    assert jacobian_floor(transcoder, mlp, x, among=among).relative_error_data == pytest.approx(lost / energy)
    assert lost > 0


def test_it_falls_with_every_active_feature_from_one_to_zero(mlp):
    energies = jacobian_energies(mlp, correlated())
    by_r = [energies.floor(torch.full((20,), r)).to_dict() for r in range(6)]
    for name in by_r[0]:
        values = [floors[name] for floors in by_r]
        assert values[0] == pytest.approx(1)
        assert all(a > b for a, b in pairwise(values[:5]))
        assert values[4] == values[5] == 0  # d_out is 4


def test_the_layers_energies_are_its_jacobians(mlp):
    x = correlated()
    energies = jacobian_energies(mlp, x)
    J, R = layer_jacobian(mlp, x), covariance_root(x)
    torch.testing.assert_close(energies.layer["isotropic"], J.square().sum((1, 2)))
    torch.testing.assert_close(energies.layer["data"], (J @ R).square().sum((1, 2)))
    for kind in DIRECTIONS:  # without a skip connection
        torch.testing.assert_close(energies.squares[kind].sum(-1), energies.layer[kind])


def test_a_skip_connection_can_reach_what_no_feature_does(mlp):
    silent, linear = random_transcoder("standard", skip=True), torch.nn.Linear(5, 4).double()
    with torch.no_grad():
        silent.b_enc.fill_(-1e3)
        silent.W_skip.copy_(linear.weight)
    assert jacobian_floor(silent, linear, correlated()).to_dict() == pytest.approx(
        {"relative_error": 0, "relative_error_data": 0, "relative_error_difference": 0}, abs=1e-12
    )


def test_one_row_gives_no_directions(mlp, make_transcoder):
    with pytest.raises(ValueError, match="pass two rows or more"):
        jacobian_floor(make_transcoder(), mlp, correlated()[:1])


def test_half_precision_is_near_the_truth(make_transcoder):
    half, wide = make_transcoder(dtype="bfloat16", d_sae=3), make_transcoder(d_sae=3)
    wide.load_state_dict(half.state_dict())
    layer, x = GatedMlp(5, 7, 4), correlated().bfloat16()
    truth = jacobian_floor(wide, layer, x.double()).to_dict()
    assert jacobian_floor(half, layer.bfloat16(), x).to_dict() == pytest.approx(truth, rel=0.2, abs=0.02)
