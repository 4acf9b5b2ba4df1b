"""What docs/cross-layer.md says was measured, held against the committed files."""

import numpy as np
import pytest

from faithfulness_plugin.benchmarks.chains.report import at_share
from faithfulness_plugin.benchmarks.chains.schema import ChainsResult
from faithfulness_plugin.benchmarks.readme import CHAINS
from faithfulness_plugin.benchmarks.suite.at_layer_l0 import seed_scores
from faithfulness_plugin.results.open_or_resume import RESULT_FILENAME
from faithfulness_plugin.results.schema import read_result


@pytest.fixture(scope="module")
def result() -> ChainsResult:
    found = read_result(CHAINS / "standard" / RESULT_FILENAME, ChainsResult)
    assert len(found.seeds) == 5
    return found


def scores(result: ChainsResult, task: str, method: str, name: str, share: float = 1.0) -> list[float]:
    read = at_share(result, share)
    return [found[name] for seed in result.seeds if (found := seed_scores(read, task, method, seed)) is not None]


def test_per_layer_transcoders_find_the_two_hops_and_a_cross_layer_one_writes_past_them(result):
    assert all(kept > 0.9 for kept in scores(result, "two_hops", "per_layer-none", "hops_kept"))
    assert np.mean(scores(result, "two_hops", "per_layer-none", "edge_recall")) > 0.95
    assert all(kept < 0.95 for kept in scores(result, "two_hops", "clt-none", "hops_kept"))
    assert np.mean(scores(result, "two_hops", "clt-none", "edge_recall")) < 0.95


def test_the_direct_penalty_keeps_the_two_hops_at_no_cost(result):
    assert all(kept > 0.95 for kept in scores(result, "two_hops", "clt-direct", "hops_kept"))
    assert np.mean(scores(result, "two_hops", "clt-direct", "fvu")) < 0.03
