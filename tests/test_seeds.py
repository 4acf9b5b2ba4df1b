import torch
from hypothesis import given
from hypothesis import strategies as st

from faithfulness_plugin import AbsInputs
from faithfulness_plugin.seeds import derived_seed


@given(seed=st.integers(-(2**70), 2**70))
def test_a_seed_per_use_that_generators_take(seed):
    first, second = derived_seed(seed, "inputs"), derived_seed(seed, "probes")
    assert first != second
    assert first == derived_seed(seed, "inputs")
    assert first != derived_seed(seed + 1, "inputs")
    torch.Generator().manual_seed(first)
    assert 0 <= first < 2**63


def test_data_are_not_the_numbers_that_weights_of_the_same_seed_are():
    torch.manual_seed(0)
    weights = torch.empty(256, 16).uniform_(-1, 1)
    assert not torch.isclose(weights, next(AbsInputs(16, seed=0))).any()
