"""The cost of cross-layer transcoders at a size that says nothing."""

import pytest

from faithfulness_plugin.benchmarks.timing.configs import CrossLayerCostConfig
from faithfulness_plugin.benchmarks.timing.cross_layer import TERMS, CrossLayerCost, pairs_of
from faithfulness_plugin.results.experiment import complete

SMALL = CrossLayerCostConfig(n_layers=3, d=8, d_sae=16, batch=16, bandwidths=(1, 2, 3), n_steps=1, rounds=2)


def test_memory_is_linear_in_the_pairs_that_are_kept(tmp_path):
    result = complete(CrossLayerCost(), SMALL, tmp_path)
    assert [[cost.pairs for cost in term] for term in result.terms] == [[3, 5, 6]] * len(TERMS)
    fixed = 3 * (8 * 16 + 16 + 8)  # encoders and biases
    for term in result.terms:
        assert [cost.parameters for cost in term] == [fixed + pairs * 16 * 8 for pairs in (3, 5, 6)]
        assert [cost.bytes for cost in term] == [16 * cost.parameters for cost in term]
        assert term[0].ratio.median == 1
    text = CrossLayerCost().tables(result)
    assert "own and direct" in text
    assert "ms a pair from" in text


@pytest.mark.parametrize(("bandwidth", "pairs"), [(1, 6), (2, 11), (6, 21)])
def test_pairs(bandwidth, pairs):
    assert pairs_of(6, bandwidth) == pairs
