import os
import random
import signal
from pathlib import Path
from typing import Any

import pytest

from faithfulness_plugin.benchmarks.note.scan import shard
from faithfulness_plugin.benchmarks.note.scan.estimate import seconds
from faithfulness_plugin.benchmarks.note.scan.experiment import Scan, ScanOptions, merged, missing
from faithfulness_plugin.benchmarks.note.scan.presets import names, preset
from faithfulness_plugin.benchmarks.note.scan.report import table
from faithfulness_plugin.benchmarks.note.scan.schema import ScanResult
from faithfulness_plugin.benchmarks.note.scan.shard import SHARDS, cost, digest, shards, train_shard
from faithfulness_plugin.benchmarks.note.scan.spec import ScanSpec
from faithfulness_plugin.benchmarks.note.trainer import ensemble
from faithfulness_plugin.results import experiment
from faithfulness_plugin.results.experiment import Running, run_parts
from faithfulness_plugin.results.open_or_resume import RESULT_FILENAME
from faithfulness_plugin.results.schema import ResultError, read_result

TINY = {"d_in": 4, "d_sae": 12, "density": 0.5, "batch_size": 16, "n_steps": 20}
SPEC = ScanSpec.model_validate(
    {
        "base": TINY,
        "arms": {"no term": {}, "secant": {"estimator": "secant", "jacobian_coefficient": 1.0}},
        "grid": {"sparsity_coefficient": [0.1, 0.2]},
        "seeds": 3,
        "log_every": 10,
        "extras": ["masking", "point_circuit"],
        "n_validation": 400,
        "n_jacobian": 50,
    }
)


def open_result(out: Path, spec: ScanSpec = SPEC, overwrite: bool = False) -> ScanResult:
    return experiment.open_result(Scan(), spec, out, overwrite)


def complete(out: Path, spec: ScanSpec = SPEC, size: int = 32, **how: Any) -> ScanResult:
    return experiment.complete(Scan(), spec, out, options=ScanOptions(shard_size=size), **how)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> ScanResult:
    return complete(tmp_path_factory.mktemp("whole"))


def test_all_points_are_there_once_in_order(whole):
    assert whole.complete
    assert [t.point for t in whole.trained] == SPEC.points
    assert all(t.extras.masking and t.extras.point_circuit is not None for t in whole.trained)
    assert all(t.extras.spectrum is None for t in whole.trained)
    assert [[r["step"] for r in t.history] for t in whole.trained] == [[10, 20]] * 12
    assert whole.trained[0].history[-1]["m"] == pytest.approx(whole.trained[0].metrics.m, abs=1e-6)
    assert len(whole.of("secant", sparsity_coefficient=0.1)) == 3


@pytest.mark.bitwise("torch multiplies the matrices of a batch one by one, each as if it stood alone")
@pytest.mark.parametrize(("size", "n_jobs"), [(1, 1), (2, 1), (5, 3), (100, 2)])
def test_parts_of_any_size_give_the_same_file(whole, tmp_path, size, n_jobs):
    parts = shards(SPEC, SPEC.points, size, n_jobs)
    assert max(map(len, parts)) <= size
    once = sorted(point.model_dump_json() for part in parts for point in part)
    assert once == sorted(point.model_dump_json() for point in SPEC.points)
    result = complete(tmp_path, size=size)
    assert result == whole
    assert read_result(tmp_path / RESULT_FILENAME, ScanResult) == whole
    assert [p.name for p in tmp_path.iterdir()] == [RESULT_FILENAME]


@pytest.mark.bitwise("torch multiplies the matrices of a batch one by one, each as if it stood alone")
def test_parts_merged_in_any_order_are_one_run(whole, tmp_path):
    parts = [train_shard(SPEC, part, None).trained for part in shards(SPEC, SPEC.points, 2, 1)]
    for seed in range(3):
        random.Random(seed).shuffle(parts)
        result = open_result(tmp_path / str(seed))
        for part in parts:
            assert not result.complete
            result = merged(result, part)
        assert result == whole


@pytest.mark.bitwise("the same steps on the same batches in one process round alike")
def test_killed_in_the_middle_of_a_part_it_goes_on_to_the_same_file(whole, tmp_path, monkeypatch):
    monkeypatch.setattr("faithfulness_plugin.benchmarks.note.scan.shard.CHECKPOINT_EVERY", 5)
    steps = 0
    step = ensemble._Group.step

    def killed(self, n, log):
        nonlocal steps
        steps += 0 in self.numbers  # members that are computed apart take the same step
        if steps == 33:
            raise KeyboardInterrupt
        return step(self, n, log)

    monkeypatch.setattr(ensemble._Group, "step", killed)
    with pytest.raises(KeyboardInterrupt):
        complete(tmp_path, size=6)
    partial = open_result(tmp_path)
    assert 0 < len(partial.trained) < 12
    assert len(missing(partial)) == 12 - len(partial.trained)
    assert "PARTIAL" in table(partial)
    assert len(list((tmp_path / SHARDS).glob("*.pt"))) == 2
    before = steps
    assert complete(tmp_path, size=6) == whole
    assert steps - before <= 10  # of the part that was killed, only what came after its checkpoint
    assert not (tmp_path / SHARDS).exists()


@pytest.mark.bitwise("the same steps on the same batches in one process round alike")
def test_killed_before_any_part_is_done_it_goes_on_from_its_checkpoint(whole, tmp_path, monkeypatch):
    monkeypatch.setattr("faithfulness_plugin.benchmarks.note.scan.shard.CHECKPOINT_EVERY", 5)
    step = ensemble._Group.step
    steps = []

    def killed(self, n, log):
        if 0 in self.numbers:
            steps.append(n)
        if len(steps) == 13:
            raise KeyboardInterrupt
        return step(self, n, log)

    monkeypatch.setattr(ensemble._Group, "step", killed)
    with pytest.raises(KeyboardInterrupt):
        complete(tmp_path)
    assert open_result(tmp_path).trained == []
    checkpoint = next((tmp_path / SHARDS).iterdir()).read_bytes()
    assert complete(tmp_path) == whole
    assert steps[13] == 10  # not from the start
    (tmp_path / SHARDS).mkdir()
    (tmp_path / SHARDS / f"{digest(SPEC, SPEC.points[:6])}.pt").write_bytes(checkpoint)
    monkeypatch.setattr(ensemble._Group, "step", lambda self, n, log: steps.append(n) or step(self, n, log))
    before = len(steps)
    complete(tmp_path, overwrite=True)
    assert steps[before] == 0  # a checkpoint that was here before is not taken


def test_one_that_cannot_be_trained_or_measured_is_told_and_the_others_go_on(tmp_path):
    spec = ScanSpec(base=TINY, grid={"lr": [1e30, 0.001]}, seeds=2, n_validation=200, n_jacobian=50)
    running = Running(tmp_path, options=ScanOptions())
    *_, (result, _) = run_parts(Scan(), open_result(tmp_path, spec), running)
    assert [t.values["lr"] for t in result.trained] == [0.001, 0.001]
    assert not result.complete
    (line,) = running.failures
    assert line.startswith("2 of 4 transcoders failed, the first (all, lr 1e+30, seed 0): step 20")


def test_a_checkpoint_of_another_layer_is_not_taken():
    one, other = (ScanSpec(base={**TINY, "layer": layer}, n_validation=200) for layer in ("abs", "shuffled"))
    assert digest(one, one.points) != digest(other, other.points)


def _dies_once(spec, points, folder: Path):
    """Kills its own process, the first time that this part is trained."""
    mark = folder.parent / f"died-{len(points)}-{points[0].seed}"
    if not mark.exists() and points[0].seed == 0:
        mark.write_text("")
        os.kill(os.getpid(), signal.SIGKILL)
    return train_shard(spec, points, folder)


@pytest.mark.bitwise("torch multiplies the matrices of a batch one by one, each as if it stood alone, in every process")
@pytest.mark.usefixtures("forking_workers")
def test_a_worker_that_dies_is_replaced_and_its_part_made_again(whole, tmp_path, monkeypatch):
    monkeypatch.setattr(shard, "train_shard", _dies_once)
    notes = []
    result = complete(tmp_path, size=3, n_jobs=2, note=notes.append)
    assert all("parts are started again from their last checkpoints" in note for note in notes)
    assert notes
    assert result == whole


def test_a_result_of_another_scan_or_schema_is_neither_mixed_nor_lost(whole, tmp_path):
    path = tmp_path / RESULT_FILENAME
    path.write_text(whole.model_dump_json())
    other = ScanSpec(base=TINY, grid={"sparsity_coefficient": [0.1]})
    with pytest.raises(ResultError, match="other settings"):
        open_result(tmp_path, other)
    renamed = SPEC.model_copy(update={"name": "another name"})
    assert open_result(tmp_path, renamed) == whole
    path.write_text(whole.model_dump_json().replace('"schema_version":1', '"schema_version":7'))
    with pytest.raises(ResultError, match=r"has schema version 7, and this version of the package reads 1: use the"):
        open_result(tmp_path)
    assert '"schema_version":7' in path.read_text()


def test_the_table_says_what_the_result_says(whole):
    lines = table(whole).splitlines()
    assert len(lines) == 2 + 4 + 2
    of = whole.of("secant", sparsity_coefficient=0.2)
    row = next(line for line in lines if line.startswith("| secant | 0.2 |"))
    assert f"{sum(t.metrics.fvu for t in of) / 3:.4f} (" in row
    assert f"{sum(t.metrics.m_fraction > 0.1 for t in of)} of 3" in row


def test_cost_counts_steps_and_what_a_step_takes():
    plain, matched = SPEC.points[:3], SPEC.points[-3:]
    product = 2 * 16 * 4 * 12  # of rows and one matrix
    assert cost(SPEC, plain) == 3 * 20 * 5 * product  # there and back, with both matrices' gradients
    assert cost(SPEC, matched) == 2 * cost(SPEC, plain)
    longer = SPEC.model_copy(update={"base": {**TINY, "n_steps": 40}})
    assert cost(longer, longer.points[:3]) == 2 * cost(SPEC, plain)


def test_the_estimate_grows_with_the_steps():
    def estimate(n_steps):
        spec = ScanSpec(base={**TINY, "n_steps": n_steps}, seeds=2, n_validation=100)
        return seconds(spec, spec.points, 32, 1)

    assert estimate(10**8) > 100 * estimate(100)


@pytest.mark.parametrize("name", names())
def test_every_preset_runs_in_a_tiny_size(name, tmp_path):
    whole = preset(name)
    smaller = {
        "base": {**whole.base, "n_steps": 5, "batch_size": 16},
        "grid": {key: values[-2:] for key, values in whole.grid.items()},
        "log_every": whole.log_every and 2,
    }
    spec = whole.model_copy(update={**smaller, "seeds": 1, "n_validation": 1000, "n_jacobian": 20})
    result = complete(tmp_path, spec)
    assert result.complete
    assert [t.point for t in result.trained] == spec.points
