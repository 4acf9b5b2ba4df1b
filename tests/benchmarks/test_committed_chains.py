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
    assert found.complete
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


CHAINS_OF_THE_TRACK = ("two_hops", "absolute_values", "skipping")


def mean(result: ChainsResult, task: str, method: str, name: str, share: float = 1.0) -> float:
    return float(np.mean(scores(result, task, method, name, share)))


def test_own_derivatives_with_the_direct_penalty_keep_all_hops_at_a_fraction_of_the_fvu(result):
    for task in CHAINS_OF_THE_TRACK:
        assert all(kept > 0.95 for kept in scores(result, task, "clt-own_direct", "hops_kept"))
        assert mean(result, task, "clt-own_direct", "fvu") < 0.5 * mean(result, task, "clt-none", "fvu")
        for term in ("own", "total"):
            assert mean(result, task, f"clt-{term}", "hops_kept") > mean(result, task, "clt-none", "hops_kept") + 0.1
    assert mean(result, "skipping", "clt-own_direct", "hops_kept") > mean(
        result, "skipping", "per_layer-none", "hops_kept"
    )


def test_the_penalty_alone_keeps_the_hops_of_one_chain_and_the_control_at_several_times_the_fvu(result):
    assert all(kept > 0.95 for kept in scores(result, "two_hops", "clt-direct", "hops_kept"))
    assert mean(result, "absolute_values", "clt-direct", "hops_kept") < 0.5
    noisy, cured = "clt-augmentation", "clt-own_direct"
    assert mean(result, "two_hops", noisy, "hops_kept") > 0.95
    assert mean(result, "two_hops", noisy, "fvu") > 3 * mean(result, "two_hops", cured, "fvu")
    for task in ("absolute_values", "skipping"):
        for term in ("own", "own_direct", "total"):
            assert mean(result, task, f"clt-{term}", "hops_kept") > mean(result, task, noisy, "hops_kept")


def test_below_the_chains_l0_hops_go_with_every_term_and_tied_decoders_keep_few(result):
    for task in ("absolute_values", "skipping"):
        for term in ("own", "own_direct", "total"):
            assert mean(result, task, f"clt-{term}", "hops_kept", 0.75) < 0.85
        for term in ("none", "direct", "total", "augmentation"):
            assert mean(result, task, f"clt_tied-{term}", "hops_kept") < 0.65
