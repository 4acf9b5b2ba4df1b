import pytest
import torch

from faithfulness_plugin.jacobian.probes import DATA, ISOTROPIC, PROBES, difference, pair, rademacher, sphere


@pytest.mark.exact("draws from generators in one state")
@pytest.mark.parametrize("kind", PROBES)
def test_shape_dtype_and_seed(kind):
    x = torch.randn(2, 3, 4, dtype=torch.float64)
    v = PROBES[kind](x, 5, torch.Generator().manual_seed(1))
    assert v.shape == (5, 2, 3, 4)
    assert v.dtype == torch.float64
    assert torch.equal(v, PROBES[kind](x, 5, torch.Generator().manual_seed(1)))
    assert not torch.equal(v, PROBES[kind](x, 5, torch.Generator().manual_seed(2)))


@pytest.mark.parametrize("kind", ISOTROPIC)
def test_second_moment_of_isotropic_kinds_is_the_identity(kind):
    v = ISOTROPIC[kind](torch.zeros(1, 4, dtype=torch.float64), 200_000, torch.Generator().manual_seed(0))[:, 0]
    torch.testing.assert_close(v.T @ v / len(v), torch.eye(4, dtype=torch.float64), atol=0.02, rtol=0)


def test_pair_has_the_batch_covariance_and_difference_adds_the_way_to_the_mean():
    x = torch.randn(7, 3, dtype=torch.float64) @ torch.randn(3, 3, dtype=torch.float64) + 2.0
    covariance = torch.cov(x.T, correction=0)
    generator = torch.Generator().manual_seed(0)
    v = pair(x, 40_000, generator).reshape(-1, 3)
    torch.testing.assert_close(v.T @ v / len(v), covariance, atol=0.03, rtol=0.02)
    v = difference(x, 200_000, generator)[:, 0]  # from the first row
    way = x.mean(0) - x[0]
    torch.testing.assert_close(v.T @ v / len(v), covariance + torch.outer(way, way), atol=0.03, rtol=0.02)


def test_data_probes_stay_in_the_span_of_the_data():
    x = torch.randn(10, 1, dtype=torch.float64) * torch.tensor([1.0, 2.0, 0.0], dtype=torch.float64)
    for probe in DATA.values():
        v = probe(x, 3, None)
        torch.testing.assert_close(v[..., 1], 2 * v[..., 0])
        assert not v[..., 2].any()


def test_rademacher_is_signs_and_sphere_has_radius_sqrt_d():
    x = torch.zeros(100, 9)
    assert set(rademacher(x, 1).unique().tolist()) == {-1.0, 1.0}
    torch.testing.assert_close(sphere(x, 1).norm(dim=-1), torch.full((1, 100), 3.0))
