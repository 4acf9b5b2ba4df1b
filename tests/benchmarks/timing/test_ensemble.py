import pytest

from faithfulness_plugin.benchmarks.timing.ensemble import OBJECTIVES, Ensemble, EnsembleSpeedConfig
from faithfulness_plugin.results.experiment import complete


def test_every_objective_and_line_is_measured_and_told(tmp_path):
    config = EnsembleSpeedConfig(n_models=2, n_steps=20, rounds=2, line=(4, 5, 6), peak_size=64, threads=1)
    result = complete(Ensemble(), config, tmp_path)
    assert result.complete
    assert [of.objective for of in result.compared] == list(OBJECTIVES)
    for of in result.compared:
        assert 0 < of.ratio.low <= of.ratio.median <= of.ratio.high
        assert of.share_of_peak.median > 0
    models, steps = result.lines
    assert (models.numbers, steps.numbers) == ([4, 5, 6], [20, 25, 30])
    for line in result.lines:
        fitted = [line.intercept + line.slope * number for number in line.numbers]
        assert sum(fitted) == pytest.approx(sum(line.seconds))
    text = Ensemble().tables(result)
    assert "| secant |" in text
    assert "Over steps (20 to 30)" in text
    partial = result.model_copy(update={"lines": [], "complete": False})
    assert Ensemble().progress(partial) == (3, 5)
    assert "PARTIAL" in Ensemble().tables(partial)
