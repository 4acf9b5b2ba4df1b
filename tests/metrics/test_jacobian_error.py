import pytest
import torch
from oracles import (
    ARCHITECTURES,
    GatedMlp,
    exact_abs_transcoder,
    frobenius_error,
    jacobian_by_rows,
    random_transcoder,
)

from faithfulness_plugin import AbsInputs, AbsNetwork
from faithfulness_plugin.directions import Directions
from faithfulness_plugin.metrics import jacobian_error
from faithfulness_plugin.metrics.jacobian_error import jacobian_products


def test_it_is_the_ratio_of_means_and_the_mean_cosine(mlp, make_transcoder):
    transcoder, x = make_transcoder(), torch.randn(20, 5, dtype=torch.float64)
    J_f = torch.stack([jacobian_by_rows(mlp, r) for r in x])
    J_t = torch.stack([jacobian_by_rows(transcoder, r) for r in x])
    result = jacobian_error(transcoder, mlp, x)
    energy = J_f.square().sum((1, 2)).mean().item()
    assert result.relative_error == pytest.approx(frobenius_error(mlp, transcoder, x) / energy)
    cosines = [(a * b).sum() / a.norm() / b.norm() for a, b in zip(J_f, J_t, strict=True)]
    assert result.cosine == pytest.approx(torch.stack(cosines).mean().item())


def test_data_directions_weigh_with_the_covariance(mlp, make_transcoder):
    transcoder = make_transcoder()
    x = torch.randn(20, 5, dtype=torch.float64) @ torch.randn(5, 5, dtype=torch.float64)
    C = torch.cov(x.T, correction=0)
    J_f = torch.stack([jacobian_by_rows(mlp, r) for r in x])
    A = torch.stack([jacobian_by_rows(transcoder, r) for r in x]) - J_f

    def energy(J: torch.Tensor) -> float:
        return torch.einsum("noi,ij,noj->", J, C, J).item()

    assert jacobian_error(transcoder, mlp, x).relative_error_data == pytest.approx(energy(A) / energy(J_f))


def test_cosine_is_blind_to_shrinkage_and_the_error_is_not():
    x = next(AbsInputs(4, batch_size=50)).double()
    layer = AbsNetwork(4).double()
    result = jacobian_error(exact_abs_transcoder(4), lambda rows: 2 * layer(rows), x)
    assert result.cosine == pytest.approx(1)
    assert result.relative_error == pytest.approx(0.25)
    assert result.columns == 1


def test_only_the_columns_asked_for_count():
    x = next(AbsInputs(6, density=0.3, batch_size=200)).double()
    layer, transcoder = AbsNetwork(6).double(), exact_abs_transcoder(6, 13)
    with torch.no_grad():  # one that fires on every row and reads from kinks alone, on average
        transcoder.W_enc[5, 12], transcoder.W_dec[12, 5], transcoder.b_enc[12] = 1.0, 1.0, 5.0
    off_kink = jacobian_error(transcoder, layer, x[x[:, 5] == 0], columns=x[x[:, 5] == 0] != 0)
    assert off_kink.relative_error == pytest.approx(0, abs=1e-12)
    assert off_kink.columns == pytest.approx(0.25, abs=0.05)  # five of six columns, three in ten of their entries
    assert jacobian_error(transcoder, layer, x).relative_error > 0.1


def test_rows_where_the_layer_stands_still_count_in_the_error_alone(make_transcoder):
    transcoder = make_transcoder(d_in=2, d_out=2)
    x = torch.tensor([[0.0, 0.0], [0.5, -0.5], [0.2, 0.1]], dtype=torch.float64)
    result = jacobian_error(transcoder, torch.abs, x)
    only = jacobian_error(transcoder, torch.abs, x[1:])
    assert result.cosine == pytest.approx(only.cosine)
    assert result.relative_error > only.relative_error


def test_shapes_that_do_not_fit_are_named(as_installed, mlp, make_transcoder):
    x = torch.randn(5, 5, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"columns has shape \[5\] and x \[5, 5\]"):
        jacobian_error(make_transcoder(), mlp, x, columns=x[0] > 0)
    with pytest.raises(ValueError, match="pass two rows or more"):
        jacobian_error(make_transcoder(), mlp, x[:1])
    with pytest.raises(ValueError, match="compare a transcoder with the layer it replaces"):
        jacobian_error(make_transcoder(d_out=1), mlp, x)


def test_known_mlps_are_compared_by_gram_matrices_and_opaque_layers_by_products(make_transcoder):
    for architecture in ARCHITECTURES:
        transcoder, layer = make_transcoder(architecture, skip=True), GatedMlp(5, 7, 4)
        x = torch.randn(20, 5, dtype=torch.float64)
        by_gram = jacobian_error(transcoder, layer, x)
        opaque = jacobian_error(transcoder, lambda rows, layer=layer: layer(rows), x)
        masked = jacobian_error(transcoder, layer, x, columns=torch.ones_like(x, dtype=torch.bool))
        assert (by_gram.method, opaque.method, masked.method) == ("gram", "products", "products")
        numbers = [{k: v for k, v in of.to_dict().items() if k != "method"} for of in (by_gram, opaque, masked)]
        assert numbers[0] == pytest.approx(numbers[1], rel=1e-7)
        assert numbers[0] == pytest.approx(numbers[2], rel=1e-7)


def test_half_precision_does_not_lose_the_sums():
    transcoder, layer = random_transcoder("standard", 200, 200, 300, dtype="bfloat16"), torch.abs
    x = torch.randn(8, 200).bfloat16()
    wide = random_transcoder("standard", 200, 200, 300, dtype="float64")
    wide.load_state_dict(transcoder.state_dict())
    truth = jacobian_error(wide, layer, x.double()).relative_error
    assert jacobian_error(transcoder, layer, x).relative_error == pytest.approx(truth, rel=0.02)


def test_rows_that_do_not_vary_have_no_data_directions(mlp, make_transcoder):
    with pytest.raises(ValueError, match="these rows do not vary where the layer does"):
        jacobian_error(make_transcoder(), mlp, torch.ones(4, 5).double())


def test_a_layer_that_never_moves_is_refused(make_transcoder):
    with pytest.raises(ValueError, match="zero on all these rows"):
        jacobian_error(make_transcoder(d_out=5), lambda x: 0 * x, torch.randn(4, 5).double())


@pytest.mark.parametrize("masked", [False, True])
def test_difference_directions_go_from_each_row_to_every_other(mlp, make_transcoder, masked):
    transcoder, x = make_transcoder(skip=True), torch.randn(20, 5, dtype=torch.float64) + 1
    columns = torch.rand(20, 5) < 0.6
    steps = (x - x[:, None]) * (columns[:, None] if masked else 1)  # [from, to, d_in]
    J_f, J_t = (torch.stack([jacobian_by_rows(f, r) for r in x]) for f in (mlp, transcoder))
    D_f, D_t = (torch.einsum("noi,nmi->nmo", J, steps) for J in (J_f, J_t))
    result = jacobian_error(transcoder, mlp, x, columns=columns if masked else None)
    error = (D_t - D_f).square().sum() / D_f.square().sum()
    assert result.relative_error_difference == pytest.approx(error.item())
    cosines = (D_t * D_f).sum((1, 2)) / D_t.square().sum((1, 2)).sqrt() / D_f.square().sum((1, 2)).sqrt()
    assert result.cosine_difference == pytest.approx(cosines.mean().item())


@pytest.mark.parametrize("gated", [False, True])
def test_of_the_differences_energy_the_direction_to_the_mean_has_what_the_data_have_not(mlp, make_transcoder, gated):
    layer, x = GatedMlp(5, 7, 4) if gated else mlp, torch.randn(20, 5, dtype=torch.float64)
    by_directions = jacobian_products(make_transcoder(), layer, x)
    assert by_directions.method == ("gram" if gated else "products")
    J_f = torch.stack([jacobian_by_rows(layer, r) for r in x])
    to_mean = torch.einsum("noi,ni->no", J_f, x.mean(0) - x).square().sum(-1)
    torch.testing.assert_close(by_directions.along["difference"].layer - by_directions.along["data"].layer, to_mean)


@pytest.mark.parametrize("gated", [False, True])
def test_directions_can_be_those_of_other_rows(mlp, make_transcoder, gated):
    transcoder, layer = make_transcoder(), GatedMlp(5, 7, 4) if gated else mlp
    among = torch.randn(30, 5, dtype=torch.float64) @ torch.randn(5, 5, dtype=torch.float64)
    x, C = among[:3], torch.cov(among.T, correction=0)
    J_f = torch.stack([jacobian_by_rows(layer, r) for r in x])
    A = torch.stack([jacobian_by_rows(transcoder, r) for r in x]) - J_f
    to_mean = among.mean(0) - x

    def energies(J: torch.Tensor) -> tuple[float, float]:
        data = torch.einsum("noi,ij,noj->", J, C, J).item()
        return data, data + torch.einsum("noi,ni->no", J, to_mean).square().sum().item()

    found = jacobian_error(transcoder, layer, x, among=among)
    data, difference = (a / b for a, b in zip(energies(A), energies(J_f), strict=True))
    assert (found.relative_error_data, found.relative_error_difference) == pytest.approx((data, difference))
    assert found.relative_error_data != pytest.approx(jacobian_error(transcoder, layer, x).relative_error_data)


def test_the_error_averages_the_products_of_each_row(mlp, make_transcoder):
    transcoder, x = make_transcoder("topk"), torch.randn(20, 5, dtype=torch.float64)
    result, rows = jacobian_error(transcoder, mlp, x), jacobian_products(transcoder, mlp, x)
    suffixes: dict[Directions, str] = {"isotropic": "", "data": "_data", "difference": "_difference"}
    for kind, suffix in suffixes.items():
        products = rows.along[kind]
        ratio = products.squared_error.sum() / products.layer.sum()
        assert getattr(result, f"relative_error{suffix}") == pytest.approx(ratio.item())
        assert getattr(result, f"cosine{suffix}") == pytest.approx(products.cosine.mean().item())
    with pytest.raises(ValueError, match="compare a transcoder with the layer it replaces"):
        jacobian_products(make_transcoder(d_out=1), mlp, x)
