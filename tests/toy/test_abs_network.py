import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from faithfulness_plugin import AbsNetwork


@pytest.mark.bitwise("sums with one term that is not 0 are exact in any order")
@given(d_in=st.integers(1, 9), leading=st.lists(st.integers(1, 3), max_size=2))
def test_it_is_the_absolute_value_exactly(d_in, leading):
    x = torch.randn(*leading, d_in) * 100
    assert torch.equal(AbsNetwork(d_in)(x), x.abs())


@pytest.mark.bitwise("sums with one term that is not 0 are exact in any order")
def test_every_hook_fires_with_what_its_name_says():
    x = torch.randn(7, 3)
    y, cache = AbsNetwork(3).run_with_cache(x)
    assert set(cache) == {"hook_in", "hook_pre", "hook_post", "hook_out"}
    assert torch.equal(cache["hook_in"], x)
    assert torch.equal(cache["hook_pre"], torch.cat([x, -x], dim=-1))
    assert torch.equal(cache["hook_post"], torch.cat([x, -x], dim=-1).relu())
    assert torch.equal(cache["hook_out"], y)


@pytest.mark.bitwise("sums with one term that is not 0 are exact in any order")
@pytest.mark.parametrize("neuron", range(6))
def test_ablating_one_neuron_changes_exactly_one_output(neuron):
    def ablate(post, hook):
        post[:, neuron] = 0
        return post

    network, x = AbsNetwork(3), torch.randn(50, 3)
    y = network.run_with_hooks(x, fwd_hooks=[("hook_post", ablate)])
    changed = (y != x.abs()).any(0)
    assert changed.tolist() == [i == neuron % 3 for i in range(3)]
    assert torch.equal(network(x), x.abs())  # and the hook is gone


def test_the_weights_are_fixed():
    assert not any(p.requires_grad for p in AbsNetwork(3).parameters())


def test_wrong_widths_are_named(as_installed):
    with pytest.raises(ValueError, match=r"inputs are 4 wide .* this network has d_in=3"):
        AbsNetwork(3)(torch.zeros(2, 4))
    with pytest.raises(ValueError, match="d_in=0"):
        AbsNetwork(0)
