from pathlib import Path
from typing import Any

import pytest
import tiny_hub
from command_line import fails, settings_file
from typer.testing import CliRunner

from faithfulness_plugin.benchmarks.timing import store
from faithfulness_plugin.benchmarks.timing.store import StoreSpeedConfig, StoreSpeedResult, Together
from faithfulness_plugin.cli.app import app
from faithfulness_plugin.results.schema import read_result

pytestmark = pytest.mark.usefixtures("as_installed")


@pytest.fixture(scope="module")
def settings(tmp_path_factory) -> Any:
    folder = tmp_path_factory.mktemp("hub")
    hub = tiny_hub.write_hub(folder)
    small = {"model": hub["model"], "text": hub["text"], "block": 1, "d_sae": 24, "k": 4, "prompts": 16}
    small |= {"prompts_per_shard": 8, "context_size": 16, "prompts_per_pass": 4, "batch_size": 32, "n_steps": 4}
    return settings_file(folder / "mine.yaml", {**small, "together_batch_size": 32, "together_steps": 4})


def measure(settings: str, *arguments: str) -> Any:
    return CliRunner().invoke(app, ["experiment", "store", "--settings", settings, *arguments])


@pytest.fixture
def _one_process_is_this_one(monkeypatch) -> None:
    """Only two processes are started by torchrun."""
    started = store._together

    def together(c: StoreSpeedConfig, folder: Path, processes: int, threads: int) -> Together:
        if processes > 1:
            return started(c, folder, processes, threads)
        (folder / store.CONFIG).write_text(c.model_dump_json())
        store._as_one_process(folder, threads)
        return Together.model_validate_json((folder / store.TOGETHER).read_bytes())

    monkeypatch.setattr(store, "_together", together)


@pytest.mark.usefixtures("_one_process_is_this_one")
def test_results_are_equal_and_rates_are_told(settings, tmp_path, monkeypatch):
    done = measure(settings(), "--out", str(tmp_path), "--rounds", "2", "--threads", "1")
    assert done.exit_code == 0, done.output
    result = read_result(tmp_path / "result.json", StoreSpeedResult)
    assert result.difference is not None
    assert result.difference < 1e-5
    half, one, two = result.together
    assert (half.processes, one.processes, two.processes) == (1, 1, 2)
    assert one.losses == pytest.approx(two.losses, rel=1e-4)
    assert len(result.from_store) == len(result.from_model) == 2
    assert min(*result.from_store, *result.from_model, one.rows_per_second, two.rows_per_second) > 0
    assert "| store / model, paired |" in done.stdout
    monkeypatch.setattr(store, "_measure", lambda *_: pytest.fail("shown again, not run again"))
    again = measure(settings(), "--out", str(tmp_path), "--rounds", "2", "--threads", "1")
    assert (again.exit_code, again.stdout) == (0, done.stdout)


@pytest.mark.parametrize(
    ("changed", "arguments", "message"),
    [
        ({"block": 7}, [], "block: there is no block 7: the model has blocks 0 to 1"),
        ({"promts": 7}, [], "there is no setting promts: did you mean prompts"),
        ({"prompts": 10**7}, [], "give more text, or ask for fewer"),
        ({}, ["--rounds", "0"], "rounds: "),
    ],
)
def test_what_a_user_can_get_wrong(settings, tmp_path, changed, arguments, message):
    fails(measure(settings(**changed), "--out", str(tmp_path / "out"), *arguments), 2, message)
    assert not (tmp_path / "out").exists()
