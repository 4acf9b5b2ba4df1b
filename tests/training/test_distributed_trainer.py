import json
import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import forks
import pytest
import together
import torch
from torch import nn

from faithfulness_plugin import (
    JacobianMatching,
    StandardTrainingTranscoder,
    StandardTrainingTranscoderConfig,
    train_transcoder,
)
from faithfulness_plugin.store import DerivativeStore
from faithfulness_plugin.training.processes import ProcessError, Processes, joined

N_STEPS = 30
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("stores") / "store"
    torch.manual_seed(0)
    layer = nn.Sequential(nn.Linear(6, 12), nn.GELU(), nn.Linear(12, 6)).double().requires_grad_(False)
    made = DerivativeStore.create(
        folder, source={}, d_in=6, d_out=6, products=[together.DIFFERENCES], n_shards=5, dtype="float64"
    )
    with made.writing():
        for number in range(5):
            made.fill_shard(number, torch.randn(20 + 3 * number, 6, dtype=torch.float64), layer)
    return folder


def torchrun(processes: int, jobs: list[dict[str, Any]]) -> None:
    """Run the script as its users do."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command = [sys.executable, *launcher, together.__file__, json.dumps(jobs, default=str)]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=300, check=False)
    assert done.returncode == 0, done.stderr


def launch(processes: int, jobs: list[dict[str, Any]]) -> None:
    """Run the script in as many processes."""
    script, arguments = Path(together.__file__), json.dumps(jobs, default=str)
    several = [[arguments]] * processes
    for done in forks.together(script, *several) if processes > 1 else [forks.run(script, arguments)]:
        assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def results(tmp_path_factory, store) -> dict[str, dict[str, Any]]:
    """Every kind in one process and in two; and runs that begin in some processes and end in others."""
    folder = tmp_path_factory.mktemp("runs")

    def job(name: str, kind: str = "topk", stop: int | None = None) -> dict[str, Any]:
        paths = {"checkpoint": folder / name, "result": folder / f"{name}.json", "store": store}
        return {"kind": kind, "n_steps": N_STEPS, "stop": stop, **paths}

    launch(1, [*(job(f"1 {kind}", kind) for kind in together.CONFIGS), job("1 then 2", stop=17)])
    torchrun(2, [*(job(f"2 {kind}", kind) for kind in together.CONFIGS), job("1 then 2"), job("2 then 3", stop=17)])
    assert [path.name for path in (folder / "2 then 3").iterdir()] == ["step_10"]
    launch(3, [job("2 then 3"), job("3 then 1", stop=17)])
    launch(1, [job("3 then 1")])
    return {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")}


def assert_same(one: dict[str, Any], other: dict[str, Any], tolerance: float = 1e-10) -> None:
    assert one["weights"].keys() == other["weights"].keys()
    for name, weight in one["weights"].items():
        ours, theirs = (torch.tensor(of, dtype=torch.float64) for of in (weight, other["weights"][name]))
        torch.testing.assert_close(ours, theirs, rtol=10 * tolerance, atol=tolerance)
    assert len(one["history"]) == len(other["history"]) == N_STEPS // 5
    for ours, theirs in zip(one["history"], other["history"], strict=True):
        assert ours == pytest.approx(theirs, rel=10 * tolerance)
    assert one["l0"] == pytest.approx(other["l0"])


@pytest.mark.parametrize("kind", together.CONFIGS)
def test_two_processes_are_one_with_the_double_batch(results, kind):
    """Losses, the Jacobian term and its unit, which features are dead and revived, clipping: all of the whole batch."""
    one, two = results[f"1 {kind}"], results[f"2 {kind}"]
    assert (one["processes"], two["processes"]) == (1, 2)
    assert_same(one, two, 1e-7 if kind == "jumprelu" else 1e-10)  # its thresholds train in single precision
    assert one["history"][-1]["jacobian_loss"] > 0


@pytest.mark.parametrize("run", ["1 then 2", "2 then 3", "3 then 1"])
def test_a_run_goes_on_on_another_number_of_processes(results, run):
    assert results[run]["processes"] == int(run[-1])
    assert_same(results[run], results["1 topk"])


@pytest.fixture(scope="module")
def results_of_weights(tmp_path_factory) -> dict[str, dict[str, Any]]:
    """Runs on rows beside the layer's weights, in one process and in two, at once and in two parts."""
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    layer = nn.Sequential(nn.Linear(6, 12), nn.GELU(), nn.Linear(12, 6)).double().requires_grad_(False)
    made = DerivativeStore.create(
        folder / "store", source={}, d_in=6, d_out=6, products=[], n_shards=3, dtype="float64", weights=True
    )
    with made.writing():
        for number in range(3):
            made.fill_shard(number, torch.randn(40, 6, dtype=torch.float64), layer)

    def job(name: str, stop: int | None = None) -> dict[str, Any]:
        paths = {"checkpoint": folder / name, "result": folder / f"{name}.json", "store": folder / "store"}
        return {"kind": name.split(" ", 1)[1], "n_steps": N_STEPS, "stop": stop, **paths}

    launch(1, [job(f"1 {kind}") for kind in together.ANY_PROBE])
    launch(2, [*(job(f"2 {kind}") for kind in together.ANY_PROBE), job("parts pairs", 17), job("parts signs", 17)])
    assert [path.name for path in (folder / "parts pairs").iterdir()] == ["step_10"]
    launch(2, [job("parts pairs"), job("parts signs")])
    return {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")}


def test_two_processes_that_ask_stored_weights_are_one_with_the_double_batch(results_of_weights):
    assert_same(results_of_weights["1 all directions"], results_of_weights["2 all directions"])


@pytest.mark.parametrize("kind", ["pairs", "signs"])
def test_probes_are_drawn_in_each_process_and_drawn_again_after_a_resume(results_of_weights, kind):
    one, two, parts = (results_of_weights[f"{run} {kind}"] for run in ("1", "2", "parts"))
    assert (one["processes"], two["processes"], parts["processes"]) == (1, 2, 2)
    assert_same(two, parts)
    ours, theirs = ([record["jacobian_loss"] for record in of["history"]] for of in (one, two))
    assert ours != theirs
    assert sum(ours) == pytest.approx(sum(theirs), rel=0.25)  # the same in the mean over probes


@pytest.mark.exact("signs drawn with equal seeds, and a generator's state")
def test_processes_draw_other_probes_and_keep_one_common_state(monkeypatch):
    matchings = [JacobianMatching(probe="rademacher", seed=3) for _ in range(3)]
    drawn = []
    for rank, matching in enumerate(matchings):
        monkeypatch.setattr(torch.distributed, "get_rank", lambda group, rank=rank: rank % 2)
        monkeypatch.setattr(matching, "_over_processes", lambda values: values)
        monkeypatch.setattr(matching, "across", "a group")
        drawn.append([matching.targets(torch.sin, torch.ones(9, 4)).v for _ in range(2)])
    assert not torch.equal(drawn[0][0], drawn[1][0])
    assert not torch.equal(drawn[0][0], drawn[0][1])
    assert torch.equal(drawn[0][1], drawn[2][1])
    assert torch.equal(*(matching.state_dict()["generator"] for matching in matchings[:2]))


def test_a_process_that_is_lost_is_told(tmp_path, store):
    """One ends early: the other must neither hang nor go on alone."""
    job = {"checkpoint": tmp_path / "c", "n_steps": N_STEPS, "store": store, "kind": "topk", "result": tmp_path / "r"}
    jobs = [json.dumps([{**job, "stop": stop}], default=str) for stop in (None, 12)]
    lost, _ = forks.together(Path(together.__file__), *([of] for of in jobs))
    assert lost.returncode != 0
    assert "error: process 0 lost another one" in lost.stderr
    assert "the last checkpoint is as it was" in lost.stderr
    assert [path.name for path in (tmp_path / "c").iterdir()] == ["step_10"]


def test_inputs_that_are_not_shared_out_are_refused(monkeypatch):
    monkeypatch.setattr(Processes, "here", lambda: Processes(0, 2))
    transcoder = StandardTrainingTranscoder(StandardTrainingTranscoderConfig(d_in=3, d_sae=4))
    with pytest.raises(ValueError, match="2 processes train together, and the inputs are not shared out"):
        train_transcoder(transcoder, torch.abs, iter([torch.zeros(4, 3)]), n_steps=1, batch_size=4)


def test_a_process_that_does_not_come_is_missed(monkeypatch):
    given = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(forks.free_port())}
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    message = r"process 0 did not find the 2 processes .* within 1 s: start all of them, with torchrun"
    with pytest.raises(ProcessError, match=message), joined("cpu", timeout=timedelta(seconds=1)):
        pass
