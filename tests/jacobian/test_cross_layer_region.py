import pytest
import torch
from cross_layer import LAYERS, PAIRS, D, N, block, chain, cross_layer, rows
from oracles import ARCHITECTURES, jacobians_of_batch
from torch.utils.flop_counter import FlopCounterMode

from faithfulness_plugin import gradient_masking_penalty, transcoder_jvp, transcoder_vjp
from faithfulness_plugin.jacobian.cross_layer_matching import CrossLayerMatching
from faithfulness_plugin.jacobian.exact import transcoder_jacobian
from faithfulness_plugin.jacobian.linear_region import known_region
from faithfulness_plugin.layers.layer_chain import linked

OPTIONS = [{}, {"bandwidth": 2}, {"tied": True}]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_partial_jacobians_are_autograds_for_all_pairs(architecture, options):
    clt, x = cross_layer(architecture, **options), rows()
    region = clt.region(x)
    torch.testing.assert_close(region.output(), clt(x))
    J = jacobians_of_batch(clt, x)
    assert J.abs().sum() > 1
    torch.testing.assert_close(transcoder_jacobian(clt, x), J)
    for l, m in PAIRS:  # noqa: E741
        torch.testing.assert_close(region.partial_jacobian(l, m), block(J, l, m))
        assert block(J, m, l).abs().sum() == 0 or l == m
        kept = m - l < options.get("bandwidth", LAYERS)
        assert (block(J, l, m).abs().sum() > 0) == kept
    v, u = torch.randn(2, *x.shape, dtype=x.dtype)
    torch.testing.assert_close(transcoder_jvp(clt, x, v)[1], torch.einsum("noi,ni->no", J, v))
    torch.testing.assert_close(transcoder_vjp(clt, x, u)[1], torch.einsum("noi,no->ni", J, u))


@pytest.mark.parametrize("link", ["feed", "residual"])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_total_jacobians_are_autograds_through_the_replaced_chain_for_all_pairs(options, link):
    clt = cross_layer(**options)
    x_0 = torch.randn(1, D, dtype=torch.float64)
    for l, m in PAIRS:  # noqa: E741
        read = [x_0]  # the replaced chain's own rows, on which its total derivatives are the autograd of its outputs
        for _ in range(LAYERS - 1):
            padded = torch.cat([*read, *[torch.zeros_like(x_0)] * (LAYERS - len(read))], dim=-1)
            k = len(read) - 1
            read.append(linked(link, read[k], clt(padded)[:, k * D : (k + 1) * D]).detach())

        def written(x_l: torch.Tensor, l: int = l, m: int = m, read: list[torch.Tensor] = read) -> torch.Tensor:  # noqa: E741
            seen = [*read[:l], x_l]
            while True:
                padded = torch.cat([*seen, *[torch.zeros_like(x_0)] * (LAYERS - len(seen))], dim=-1)
                k = len(seen) - 1
                y = clt(padded)[:, k * D : (k + 1) * D]
                if k == m:
                    return y
                seen.append(linked(link, seen[k], y))

        expected = jacobians_of_batch(written, read[l])
        region = clt.region(torch.cat(read, dim=-1))
        torch.testing.assert_close(region.total_jacobian(l, m, link), expected)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_region_knows_its_active_features_and_their_slopes(architecture):
    clt, x = cross_layer(architecture), rows(8)
    region = known_region(clt, x)
    acts = clt.encode(x)
    found = region.active()
    torch.testing.assert_close(found.dense(torch.ones(len(found.features), dtype=x.dtype)), (acts > 0).to(x.dtype))
    slopes = torch.stack([p.W_enc.norm(dim=0) * p.W_dec.norm(dim=1) for p in clt.parts]).flatten()
    torch.testing.assert_close(gradient_masking_penalty(clt, x), ((acts > 0).to(x.dtype) @ slopes).mean())
    torch.testing.assert_close(region._sum_of_active(slopes), ((acts > 0).to(x.dtype) @ slopes).sum())
    assert clt.W_enc.shape == (LAYERS * D, LAYERS * N)
    torch.testing.assert_close(acts @ clt.W_dec + clt.b_dec, clt(x))
    again = clt.region(x, gate=acts)
    torch.testing.assert_close(again.output(), clt(x))


@pytest.mark.parametrize("bandwidth", [1, 2, 4, None])
def test_the_cost_is_linear_in_the_pairs_that_are_kept(bandwidth):
    n_layers, d, n, n_rows = 6, 4, 10, 3
    clt, x = cross_layer(n_layers=n_layers, bandwidth=bandwidth), rows(n_rows, n_layers)
    region, v = clt.region(x), rows(n_rows, n_layers)
    pairs = sum(min(n_layers - l, bandwidth or n_layers) for l in range(n_layers))  # noqa: E741
    product = 2 * n_rows * d * n  # multiplications and additions of one matrix product
    with FlopCounterMode(display=False) as counted:
        region.jvp(v)
    assert counted.get_total_flops() == product * (n_layers + pairs)
    with FlopCounterMode(display=False) as counted:
        region.total_jvp(0, v[:, :d], "feed")
    assert counted.get_total_flops() <= product * (n_layers + pairs)
    matching = CrossLayerMatching({"direct": 1.0, "total": 1.0}, n_layers)
    layers = chain(n_layers, held=True)
    targets = matching.targets(layers, x)
    with FlopCounterMode(display=False) as counted:
        matching.from_targets(clt, targets, gate=region)
    # a probe of the data costs no product with W_enc; what is carried costs one a layer, and one a pair
    assert counted.get_total_flops() == product * (n_layers - 1 + 2 * pairs - min(n_layers, bandwidth or n_layers))
    assert sum(part.W_dec.numel() for part in clt.parts) == pairs * d * n
