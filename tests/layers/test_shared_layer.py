"""A layer that is asked by several transcoders about one batch: each gets what it would get alone, once computed."""

from collections import Counter

import pytest
import tiny_models
import torch

from faithfulness_plugin import JacobianMatching
from faithfulness_plugin.layers import mlp_weights as weights_module
from faithfulness_plugin.layers.any_model import mlp_layer
from faithfulness_plugin.layers.layer_weights import MlpWeights
from faithfulness_plugin.layers.normed_mlp import NormedMlp
from faithfulness_plugin.layers.shared_layer import SharedLayer

ROWS = 80


@pytest.fixture
def products(monkeypatch) -> Counter[str]:
    """Counts the products with matrices of an MLP of so many rows."""
    counts: Counter[str] = Counter()
    for name in ("read", "read_direction", "write", "push"):
        own = getattr(MlpWeights, name)

        def counted(self, first, *rest, own=own, name=name):
            rows = first[0] if isinstance(first, tuple) else first
            counts[name] += len(rows) == ROWS
            return own(self, first, *rest)

        monkeypatch.setattr(MlpWeights, name, counted)
    return counts


def layers(name: str, block: int = 1):
    model = tiny_models.hugging_face(name)
    return mlp_layer(model, block), mlp_layer(model, block - 1)


ARMS = [
    {"probe": "pair"},
    {"probe": "difference"},
    {"probe": "rademacher"},
    {"probe": "rademacher", "n_probes": 2},
    {"estimator": "secant", "probe": "pair"},
    {"estimator": "secant", "probe": "rademacher", "central": True},
    {"estimator": "vjp"},
    {"probe": "pair", "jitter": 0.1},
]


@pytest.mark.bitwise("the same products on the same rows in one process round alike")
@pytest.mark.parametrize("name", ["llama", "neox", "gemma2"])
def test_every_arm_is_told_what_it_would_be_told_alone(name):
    layer, other = layers(name)
    shared = SharedLayer(layer, [])
    x = torch.randn(ROWS, tiny_models.D_MODEL, dtype=torch.float64)
    arms = [JacobianMatching(**arm) for arm in ARMS for _ in range(2)]
    alone = [JacobianMatching(**arm) for arm in ARMS for _ in range(2)]
    for batch in (x, x + 1, torch.randn_like(x)):
        assert torch.equal(shared(batch), layer(batch))
        for ours, theirs in zip(arms, alone, strict=True):
            found, right = ours.targets(shared, batch), theirs.targets(layer, batch)
            for part in ("x", "y", "v", "Jv", "step", "scale"):
                assert torch.equal(getattr(found, part), getattr(right, part)), (ours, part)
    assert not torch.equal(other(x), layer(x))


def test_arms_with_the_same_probes_cost_one_and_other_probes_one_product_more(products):
    layer, _ = layers("llama")
    shared, x = SharedLayer(layer, []), torch.randn(ROWS, tiny_models.D_MODEL, dtype=torch.float64)
    arms = [JacobianMatching(probe="pair") for _ in range(3)]
    for arm in arms:
        arm.targets(shared, x)  # looks the layer up
    products.clear()
    batch = torch.randn_like(x)
    for arm in arms:
        arm.targets(shared, batch)
    assert +products == {"read": 1, "push": 1}
    JacobianMatching(probe="pair", seed=1).targets(shared, batch)
    assert +products == {"read": 1, "push": 2}


@pytest.mark.bitwise("what is shared was compared bit by bit before")
def test_an_arm_without_the_term_shares_f_where_both_ways_to_it_are_equal_in_every_bit():
    layer, _ = layers("llama")
    shared, matching = SharedLayer(layer, []), JacobianMatching(probe="pair")
    calls: list[int] = []
    own = layer.function
    shared.function = lambda x: (calls.append(x.shape[1]), own(x))[1]
    x = torch.randn(ROWS, tiny_models.D_MODEL, dtype=torch.float64)
    for n in range(3):
        batch = x + n
        y = shared(batch)
        assert torch.equal(matching.targets(shared, batch).y, y)
    assert shared._products.alike
    calls.clear()
    other = x - 1
    y = matching.targets(shared, other).y
    assert shared(other) is y
    last = x - 1.5
    assert shared(last) is matching.targets(shared, last).y
    assert ROWS not in calls
    shared._products.alike = False  # as for a layer whose own products round in another way
    assert shared(x - 2) is not matching.targets(shared, x - 2).y
    assert ROWS in calls


def test_a_layer_that_is_asked_makes_the_others_forget():
    one, other = layers("llama")
    turn: list[SharedLayer] = []
    first, second = SharedLayer(one, turn), SharedLayer(other, turn)
    x = torch.randn(ROWS, tiny_models.D_MODEL, dtype=torch.float64)
    matching = JacobianMatching(probe="pair")
    first(x)
    matching.targets(first, x)
    assert first._products.x is x
    second(x)
    assert first._products.x is first._products.asked is first._products.answer is None
    torch.testing.assert_close(second(x), other(x))


def test_a_copy_remembers_nothing_so_that_it_can_be_timed():
    layer, _ = layers("llama")
    shared = SharedLayer(layer, [])
    copied = shared.copy()
    assert not isinstance(copied, SharedLayer)
    assert isinstance(weights_module.mlp_weights(shared), MlpWeights)
    assert type(weights_module.mlp_weights(copied)) is MlpWeights


def test_a_norm_after_the_mlp_is_remembered_with_it():
    layer, _ = layers("gemma2")
    assert isinstance(weights_module.mlp_weights(SharedLayer(layer, [])), NormedMlp | MlpWeights)


def test_weights_that_change_between_batches_are_seen():
    layer, _ = layers("llama")
    shared, matching = SharedLayer(layer, []), JacobianMatching(probe="pair", normalize=False)
    x = torch.randn(ROWS, tiny_models.D_MODEL, dtype=torch.float64)
    before = matching.targets(shared, x).y
    weights = weights_module.mlp_weights(layer)
    assert weights is not None
    with torch.no_grad():
        weights.W_out.mul_(2)
    torch.testing.assert_close(matching.targets(shared, x.clone()).y, 2 * before)
