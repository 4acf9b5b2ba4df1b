"""What docs/inspection.md says of the scores and of what looking costs, held against the committed files."""

from faithfulness_plugin.benchmarks.inspection.passage import PassageResult
from faithfulness_plugin.benchmarks.inspection.toy import ToyScoresResult, area_over_all
from faithfulness_plugin.benchmarks.readme import INSPECTION
from faithfulness_plugin.results.open_or_resume import RESULT_FILENAME
from faithfulness_plugin.results.schema import read_result


def test_on_the_toy_features_that_serve_the_point_alone_are_the_least_faithful():
    result = read_result(INSPECTION / "toy" / RESULT_FILENAME, ToyScoresResult)
    assert result.complete
    assert result.config.n_seeds == 60
    for by in ("scores", "unfaithful", "unbacked"):
        assert area_over_all(result.scored, by) >= 0.99


def test_on_a_real_layer_the_passages_own_features_are_not():
    result = read_result(INSPECTION / "passage" / RESULT_FILENAME, PassageResult)
    assert result.complete
    assert len(result.scored) == 9
    for of in result.scored:
        assert of.auc is not None
        assert of.auc_unfaithful is not None
        assert of.auc_unbacked is not None
        assert max(of.auc_unfaithful, of.auc_unbacked) < 0.8 < of.auc
    cost = result.measured
    assert cost is not None
    assert (cost.d_sae, cost.tokens) == (9216, 100_000)
    assert cost.page_megabytes < 10
    assert cost.table is not None
    assert cost.table < 0.5
