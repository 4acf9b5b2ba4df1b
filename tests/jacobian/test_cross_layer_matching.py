import pytest
import torch
from cross_layer import LAYERS, D, block, chain, cross_layer, per_layer, rows, smooth_layer, without_crossing
from oracles import ARCHITECTURES, jacobians_of_batch
from torch import Tensor

from faithfulness_plugin import JacobianMatching, JacobianMatchingConfig, LayerChain
from faithfulness_plugin.errors import UsageError
from faithfulness_plugin.jacobian.cross_layer_matching import CrossLayerMatching

TERMS = {
    "own": {"own": 1.0},
    "direct": {"own": 0.0, "direct": 1.0},
    "total": {"own": 0.0, "total": 1.0},
    "all": {"own": 0.7, "direct": 0.4, "total": 1.3},
}
PLAIN = {"normalize": False, "probe": "rademacher"}


def totals(J: Tensor, link: str) -> dict[tuple[int, int], Tensor]:
    """T_lm of partial derivatives J, by the chain rule written out over all paths."""
    eye, found = torch.eye(D, dtype=J.dtype), {}
    for l in range(LAYERS):  # noqa: E741
        dx = {l: eye.expand(len(J), D, D)}
        for m in range(l, LAYERS):
            dy = sum((block(J, k, m) @ dx[k] for k in range(l, m + 1)), torch.zeros(len(J), D, D, dtype=J.dtype))
            found[l, m] = dy
            dx[m + 1] = dy if link == "feed" else dx[m] + dy
    return found


def slowly(clt, layers: LayerChain, x: Tensor, own: float = 1.0, direct: float = 0.0, total: float = 0.0) -> Tensor:
    """The loss of `estimator="exact"`, of Jacobians by autograd and without a unit."""
    J_t, J_f = jacobians_of_batch(clt, x), jacobians_of_batch(layers, x)
    loss = torch.zeros((), dtype=x.dtype)
    T_t, T_f = totals(J_t, layers.link or "feed"), totals(J_f, layers.link or "feed")
    for l in range(LAYERS):  # noqa: E741
        loss += own * (block(J_t, l, l) - block(J_f, l, l)).square().sum((1, 2)).mean()
        for m in range(l + 1, LAYERS):
            loss += direct * (block(J_t, l, m) - block(J_f, l, m)).square().sum((1, 2)).mean()
            loss += total * (T_t[l, m] - T_f[l, m]).square().sum((1, 2)).mean()
    return loss


@pytest.mark.parametrize("link", ["feed", "residual"])
@pytest.mark.parametrize("name", TERMS)
@pytest.mark.parametrize("architecture", ["standard", "topk"])
def test_exact_is_the_sum_over_pairs_of_autograds_jacobians(architecture, name, link):
    clt, layers = cross_layer(architecture), chain(link=link)
    x = layers.rows(torch.randn(5, D, dtype=torch.float64))
    matching = CrossLayerMatching({**PLAIN, "estimator": "exact", **TERMS[name]}, LAYERS)
    torch.testing.assert_close(matching(clt, layers, x), slowly(clt, layers, x, **TERMS[name]))


@pytest.mark.parametrize("name", TERMS)
def test_random_probes_estimate_it_without_bias(name):
    clt, layers = cross_layer(), chain()
    x = layers.rows(torch.randn(4, D, dtype=torch.float64))
    expected = slowly(clt, layers, x, **TERMS[name]).item()
    matching = CrossLayerMatching({**PLAIN, "n_probes": 2, **TERMS[name]}, LAYERS)
    with torch.no_grad():
        found = torch.stack([matching(clt, layers, x.repeat(200, 1)) for _ in range(30)])
    error = found.std().item() / 30**0.5
    assert found.mean().item() == pytest.approx(expected, abs=4 * error)
    assert error < 0.03 * expected


@pytest.mark.parametrize("probe", ["pair", "rademacher"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_gradient_is_the_losss_central_difference(architecture, probe):
    clt, layers = cross_layer(architecture), chain(link="residual")
    x = layers.rows(torch.randn(6, D, dtype=torch.float64))
    matching = CrossLayerMatching({"probe": probe, **TERMS["all"]}, LAYERS)
    targets = matching.targets(layers, x)
    matching.from_targets(clt, targets).backward()
    weights = [weight for part in clt.parts for weight in (part.W_enc, part.W_dec)]
    directions = [torch.randn_like(weight) for weight in weights]
    values = []
    with torch.no_grad():
        for eps in (1e-6, -1e-6):
            for weight, direction in zip(weights, directions, strict=True):
                weight += eps * direction
            values.append(matching.from_targets(clt, targets).item())
            for weight, direction in zip(weights, directions, strict=True):
                weight -= eps * direction
    slope = sum((weight.grad * direction).sum().item() for weight, direction in zip(weights, directions, strict=True))
    assert (values[0] - values[1]) / 2e-6 == pytest.approx(slope, rel=1e-5)


@pytest.mark.parametrize("estimator", ["jvp", "exact"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_without_crossing_it_is_the_sum_of_the_layers_losses(architecture, estimator):
    clt, layers, x = without_crossing(cross_layer(architecture)), chain(), rows(8)
    config = {"estimator": estimator, "jitter": 0.1, "seed": 3}
    found = CrossLayerMatching(config, LAYERS)
    each = [JacobianMatching(JacobianMatchingConfig(**{**config, "seed": of.config.seed})) for of in found.each]
    alone = [
        matching(own, layer, row)
        for matching, own, layer, row in zip(each, per_layer(clt), layers.layers, layers.split(x), strict=True)
    ]
    torch.testing.assert_close(found(clt, layers, x), torch.stack(alone).sum())


def test_one_layer_has_the_loss_of_its_transcoder():
    clt, layers, x = cross_layer(n_layers=1), chain(1), rows(8, 1)
    every = CrossLayerMatching({"direct": 1.0, "total": 1.0, "seed": 5}, 1)
    alone = JacobianMatching(seed=5)(per_layer(clt)[0], layers.layers[0], x)
    torch.testing.assert_close(every(clt, layers, x), alone)
    nothing = CrossLayerMatching({"seed": 5}, 1)
    with torch.no_grad():
        clt.parts[0].W_dec.zero_()
    targets = nothing.targets(layers, x)
    torch.testing.assert_close(nothing.relative_error(nothing.from_targets(clt, targets), targets).item(), 1.0)


def test_total_derivatives_alone_do_not_tell_a_shortcut_and_own_ones_do():
    """Two linear hops, as one, and as two."""
    first, second = torch.randn(2, D, D, dtype=torch.float64)
    layers = LayerChain([lambda x: x @ first, lambda x: x @ second], link="feed")
    x = layers.rows(torch.randn(7, D, dtype=torch.float64))
    eye = torch.eye(D, dtype=torch.float64)
    shortcut, hops = (cross_layer(n_layers=2, each={"d_sae": 2 * D}) for _ in range(2))
    for clt in (shortcut, hops):
        with torch.no_grad():
            for part in clt.parts:  # x = ReLU(x) - ReLU(-x)
                part.W_enc.copy_(torch.cat([eye, -eye], dim=1))
                part.b_enc.zero_()
                part.W_dec.zero_()
            clt.b_dec.zero_()
            clt.parts[0].W_dec[:, :D] = torch.cat([first, -first])
            if clt is hops:
                clt.parts[1].W_dec.copy_(torch.cat([second, -second]))
            else:
                clt.parts[0].W_dec[:, D:] = torch.cat([first @ second, -first @ second])
    for clt in (shortcut, hops):
        torch.testing.assert_close(clt(x), layers(x))
    losses = {
        (name, kind): CrossLayerMatching({"estimator": "exact", **TERMS[name]}, 2)(clt, layers, x).item()
        for name in ("own", "direct", "total")
        for kind, clt in (("shortcut", shortcut), ("hops", hops))
    }
    assert all(losses[name, "hops"] < 1e-20 for name in ("own", "direct", "total"))
    assert losses["total", "shortcut"] < 1e-20
    assert losses["own", "shortcut"] > 0.1
    assert losses["direct", "shortcut"] > 0.1


def test_a_layer_that_reads_an_earlier_one_may_be_written_to_from_there():
    both, d = smooth_layer(2 * D), D
    layers = LayerChain([smooth_layer(), smooth_layer(), lambda x: both(x)[..., :d]], link="feed", reads={2: (0,)})
    x = layers.rows(torch.randn(5, D, dtype=torch.float64))
    J = jacobians_of_batch(layers, x)
    assert block(J, 0, 2).abs().sum() > 0.1
    assert block(J, 1, 2).abs().sum() == 0
    clt = cross_layer()
    for name, weights in TERMS.items():
        matching = CrossLayerMatching({**PLAIN, "estimator": "exact", **weights}, LAYERS)
        torch.testing.assert_close(matching(clt, layers, x), slowly(clt, layers, x, **weights), msg=name)


def test_a_resumed_term_draws_the_same_probes():
    clt, layers, x = cross_layer(), chain(), rows()
    first, again = (CrossLayerMatching({}, LAYERS) for _ in range(2))
    assert first.state_dict() == {}
    first(clt, layers, x)
    again.load_state_dict(first.state_dict())
    torch.testing.assert_close(first(clt, layers, x), again(clt, layers, x))


def test_what_a_user_can_get_wrong(as_installed):
    with pytest.raises(ValueError, match="estimator='vjp' has no partial products of a cross-layer transcoder: choose"):
        CrossLayerMatching({"estimator": "vjp"}, 2)
    with pytest.raises(ValueError, match="do not average out in total derivatives"):
        CrossLayerMatching({"probe": "difference", "total": 1.0}, 2)
    with pytest.raises(ValueError, match=r"total=-1\.0: a weight is not negative"):
        CrossLayerMatching({"total": -1.0}, 2)
    with pytest.raises(ValueError, match="own, direct and total are all 0, which leaves no term"):
        CrossLayerMatching({"own": 0.0}, 2)
    with pytest.raises(ValueError, match="a transcoder of one layer has its own derivative alone: leave them out"):
        JacobianMatching(direct=1.0)
    assert "direct" not in JacobianMatchingConfig().to_dict()
    assert JacobianMatchingConfig(direct=1.0).to_dict()["direct"] == 1.0
    clt, total = cross_layer(), CrossLayerMatching({"total": 1.0}, LAYERS)
    with pytest.raises(UsageError, match=r'pass LayerChain\(layers, link="feed"\)'):
        total(clt, chain(link=None), rows())
    with pytest.raises(UsageError, match=r"something stands between them, such as attention\. Pass held=True"):
        total(clt, chain(), rows())
    assert total(clt, chain(held=True), rows()) > 0  # by definition
    with pytest.raises(ValueError, match="is no cross-layer transcoder: use JacobianMatching"):
        CrossLayerMatching({}, LAYERS)(torch.nn.Identity(), chain(), rows())
    with pytest.raises(ValueError, match=r"have shape \[6, 8\], and 3 layers of d_in=4 are replaced"):
        CrossLayerMatching({}, 2)(clt, chain(2), rows(6, 2))
    with pytest.raises(ValueError, match="the transcoder has 3 layers of d_out=3, and the chain 3 of 4: give it"):
        CrossLayerMatching({}, LAYERS)(cross_layer(each={"d_out": 3}), chain(), rows())
