from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from faithfulness_plugin.benchmarks.note.absolute_value.arms import ARMS, arms_of
from faithfulness_plugin.benchmarks.note.absolute_value.experiment import AbsoluteValue
from faithfulness_plugin.benchmarks.note.absolute_value.report import brief_table, full_table
from faithfulness_plugin.benchmarks.note.absolute_value.schema import AbsoluteValueConfig, AbsoluteValueResult, Run
from faithfulness_plugin.benchmarks.note.toy_records import RunMetrics
from faithfulness_plugin.results.experiment import Running, complete, open_result, run_parts, write_report
from faithfulness_plugin.results.schema import ResultError, read_result

EXPERIMENT = AbsoluteValue()
SMALL = AbsoluteValueConfig(d_in=4, d_sae=12, density=0.4, n_steps=40, batch_size=32, n_validation=500, seeds=(3, 4))


def metrics_by_arm(out: Path, **config: Any) -> dict[str, RunMetrics]:
    """What one seed measures."""
    result = complete(EXPERIMENT, AbsoluteValueConfig(**config), out)
    return {run.condition: run.metrics for run in result.runs}


def without_time(run: Run) -> Run:
    return run.model_copy(update={"seconds": 0.0})


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[AbsoluteValueResult, Path]:
    out = tmp_path_factory.mktemp("finished")
    return complete(EXPERIMENT, SMALL, out), out


def test_every_arm_and_seed_is_there_once(finished):
    result, out = finished
    assert result.complete
    assert [(r.condition, r.seed) for r in result.runs] == [(arm.name, s) for arm in ARMS for s in (3, 4)]
    assert read_result(out / "result.json", AbsoluteValueResult) == result


@pytest.mark.bitwise("torch multiplies the matrices of a batch one by one, each as if it stood alone")
def test_a_run_depends_on_its_seed_alone(finished, tmp_path):
    result, _ = finished
    again = complete(EXPERIMENT, SMALL.model_copy(update={"seeds": (4,)}), tmp_path)
    assert [without_time(run) for run in again.runs] == [without_time(run) for run in result.runs if run.seed == 4]


@pytest.mark.bitwise("the same steps on the same batches in one process round alike")
def test_interrupted_and_resumed_it_is_the_same_result(finished, tmp_path):
    result, _ = finished

    for grown, _ in run_parts(EXPERIMENT, EXPERIMENT.fresh(SMALL), Running(tmp_path)):
        if len(grown.runs) == 6:
            break
    partial = open_result(EXPERIMENT, SMALL, tmp_path, overwrite=False)
    assert len(partial.runs) == 6
    assert not partial.complete
    assert "PARTIAL: 6 of 12 runs" in EXPERIMENT.tables(partial)
    assert all(path.exists() for path in write_report(EXPERIMENT, partial, tmp_path))
    lines = [line for _, line in run_parts(EXPERIMENT, partial, Running(tmp_path, resumes=True)) if line]
    assert len(lines) == 6
    resumed = read_result(tmp_path / "result.json", AbsoluteValueResult)
    assert resumed.complete
    assert [without_time(r) for r in resumed.runs] == [without_time(r) for r in result.runs]
    assert resumed.summary == result.summary


def test_figures_of_a_partial_result_show_a_seed_that_was_run(finished, tmp_path):
    result, _ = finished
    later = result.model_copy(update={"runs": [r for r in result.runs if r.seed == 4][:2], "complete": False})
    assert all(path.exists() for path in write_report(EXPERIMENT, later, tmp_path))


@pytest.mark.slow
def test_in_parallel_it_is_the_same_result(finished, tmp_path):
    result, _ = finished
    parallel = complete(EXPERIMENT, SMALL, tmp_path, n_jobs=2)
    for a, b in zip(parallel.runs, result.runs, strict=True):
        assert a.metrics.model_dump() == pytest.approx(b.metrics.model_dump(), abs=1e-5)


def test_an_existing_result_is_neither_overwritten_nor_mixed(finished, tmp_path):
    result, _ = finished
    (tmp_path / "result.json").write_text(result.model_dump_json())
    other = SMALL.model_copy(update={"n_steps": 41})
    with pytest.raises(ResultError, match=r"other settings \(n_steps 40, not 41\): choose another --out"):
        open_result(EXPERIMENT, other, tmp_path, overwrite=False)
    assert open_result(EXPERIMENT, SMALL, tmp_path, overwrite=False) == result
    assert open_result(EXPERIMENT, other, tmp_path, overwrite=True).runs == []


def test_a_partial_result_of_other_versions_is_not_continued(finished, tmp_path):
    result, _ = finished
    older = result.environment.model_copy(update={"packages": {**result.environment.packages, "torch": "2.0.0"}})
    partial = result.model_copy(update={"environment": older, "runs": result.runs[:3], "complete": False})
    (tmp_path / "result.json").write_text(partial.model_dump_json())
    with pytest.raises(ResultError, match=r"begun with other versions \(torch 2\.0\.0, not 2\.\d+"):
        open_result(EXPERIMENT, SMALL, tmp_path, overwrite=False)


def test_the_tables_say_what_the_result_says(finished):
    result, _ = finished
    brief = brief_table(result).splitlines()
    assert brief[0] == "|  | baseline | repetition | repetition + Jacobian |"
    mean = sum(r.metrics.validation_loss for r in result.runs if r.condition == "repetition") / 2
    assert f"{mean:.5f} (" in brief[2].split("|")[3]
    full = full_table(result).splitlines()
    assert len(full) == 2 + len(ARMS)
    for arm, line in zip(ARMS, full[2:], strict=True):
        values = [r.metrics for r in result.runs if r.condition == arm.name]
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        assert cells[0] == arm.title
        assert cells[3].startswith(f"{sum(m.fvu for m in values) / 2:.4f} (")
        assert cells[-1].startswith(f"{sum(m.m_fraction > 0.1 for m in values)} of 2 [")


def test_arms_are_what_they_say():
    by_name = {arm.name: arm for arm in ARMS}
    assert [arm.name for arm in ARMS if not arm.repeated] == ["baseline"]
    assert by_name["jacobian"].jacobian["jitter"] > 0 == by_name["jacobian_kink"].jacobian["jitter"]
    assert by_name["secant"].jacobian["estimator"] == "secant"
    assert by_name["noise"].jacobian_coefficient == 0 < by_name["noise"].augmentation_coefficient


@pytest.mark.parametrize("architecture", ["topk", "batch_topk", "jumprelu"])
def test_every_architecture_is_run_in_every_arm(architecture, tmp_path):
    config = SMALL.model_copy(update={"architecture": architecture, "n_steps": 5, "seeds": (3,)})
    result = complete(EXPERIMENT, config, tmp_path)
    assert [run.condition for run in result.runs] == [arm.name for arm in arms_of(architecture)]
    for run in result.runs:
        assert run.metrics.fvu >= 0
        assert architecture != "topk" or run.metrics.l0 <= config.k
    assert config.sparsity_title != SMALL.sparsity_title


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"architecture": "topk", "k": 1.5}, "k=1.5: TopK keeps a whole number"),
        ({"architecture": "batch_topk", "k": 65.0}, "at most d_sae=64 features can be active"),
        ({"architecture": "gated"}, "Input should be 'standard', 'topk', 'batch_topk' or 'jumprelu'"),
        ({"n_ones": 1}, "memorization needs 2 ones or more"),
        ({"n_ones": 17}, "at most d_in=16 fit"),
        ({"density": 1.5}, "less than or equal to 1"),
        ({"seeds": ()}, "at least 1 item"),
    ],
)
def test_settings_that_cannot_work_are_refused(fields, message):
    with pytest.raises(ValidationError, match=message):
        AbsoluteValueConfig(**fields)


@pytest.mark.slow
def test_the_datapoint_feature_forms_and_matching_removes_it(tmp_path):
    results = metrics_by_arm(tmp_path, seeds=(11,))
    assert results["repetition"].m >= 0.6
    assert results["baseline"].m <= 0.02
    assert results["baseline"].fvu <= 0.03
    for name in ("jacobian", "jacobian_kink", "secant"):
        assert results[name].m <= 0.02
        assert results[name].fvu <= results["repetition"].fvu  # L0 is compared over seeds, in test_committed_results


@pytest.mark.slow
def test_the_defaults_carry_over_to_another_width_and_four_ones(tmp_path):
    results = metrics_by_arm(tmp_path, d_in=20, density=0.08, n_ones=4, seeds=(11,))
    assert results["repetition"].m_fraction >= 0.8
    for name in ("jacobian", "jacobian_kink", "secant"):
        assert results[name].m_fraction <= 0.02
