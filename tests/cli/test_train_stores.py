from pathlib import Path
from typing import Any

import forks
import pytest
import tiny_hub
import torch
import yaml
from command_line import fails, settings_file
from huggingface_hub import ModelCard
from sae_lens import SAE
from safetensors.torch import load_file
from typer.testing import CliRunner

from faithfulness_plugin.cli.app import app
from faithfulness_plugin.language_model import loaded, train_stored
from faithfulness_plugin.language_model.result import TrainResult
from faithfulness_plugin.results.schema import read_result

pytestmark = pytest.mark.usefixtures("as_installed")
NAMES = ["block1_coefficient0", "block1_coefficient0.5"]


@pytest.fixture(scope="module")
def hub(tmp_path_factory) -> dict[str, Any]:
    return tiny_hub.write_hub(tmp_path_factory.mktemp("hub"))


@pytest.fixture
def settings(hub, tmp_path):
    return settings_file(tmp_path / "mine.yaml", {**hub, "coefficients": [0.0, 0.5]})


def train(config: str, out: Path, *arguments: str) -> Any:
    return CliRunner().invoke(app, ["train", config, "--out", str(out), *arguments])


def in_processes(n: int, config: str, out: Path, *arguments: str) -> tuple[list[int], str]:
    """The exit codes of the command in as many processes, and what they write to stderr."""
    code = "from faithfulness_plugin.cli.app import main; main()"
    done = forks.together(code, *[["train", config, "--out", out, *arguments]] * n)
    return [of.returncode for of in done], "".join(of.stderr for of in done)


def weights(out: Path) -> dict[str, dict[str, torch.Tensor]]:
    return {path.parent.name: load_file(path) for path in sorted(out.glob("transcoders/*/sae_weights.safetensors"))}


def test_from_settings_through_stores_to_transcoders_and_again(settings, tmp_path, monkeypatch):
    out, stores = tmp_path / "out", tmp_path / "stores"
    done = train(settings(), out, "--stores", str(stores))
    assert done.exit_code == 0, done.output
    result = read_result(out / "result.json", TrainResult)
    assert result.complete
    assert result.from_stores
    assert [t.name for t in result.transcoders] == NAMES == sorted(weights(out))
    for trained in result.transcoders:
        before, after = trained.evaluations
        assert (before.step, after.step) == (0, result.config.n_steps)
        assert after.fvu < before.fvu
        folder = out / "transcoders" / trained.name
        assert SAE.load_from_disk(folder).cfg.metadata.hook_name_out == trained.hook_out
        assert f"after {result.config.tokens:,} tokens" in ModelCard.load(folder / "README.md").content
    monkeypatch.setattr(loaded, "load_model", lambda *_: pytest.fail("shown again, not run again"))
    again = train(settings(), out, "--stores", str(stores))
    assert again.exit_code == 0
    assert "is complete; shown again" in again.stderr


@pytest.mark.bitwise("the same steps on the same batches in two processes of one machine round alike")
def test_stopped_it_goes_on(settings, tmp_path, monkeypatch):
    stores, real = tmp_path / "stores", train_stored.StoredRows.__next__
    assert train(settings(checkpoints=4), tmp_path / "whole", "--stores", str(stores)).exit_code == 0

    def stopped(rows: Any) -> torch.Tensor:
        if rows.batch == 7 and rows.layer.product is not None:
            raise KeyboardInterrupt
        return real(rows)

    with monkeypatch.context() as within:
        within.setattr(train_stored.StoredRows, "__next__", stopped)
        interrupted = train(settings(checkpoints=4), tmp_path / "parts", "--stores", str(stores))
    assert interrupted.exit_code == 130
    assert "the same command resumes from the last checkpoint" in interrupted.stderr
    checkpoints = tmp_path / "parts" / "checkpoints" / NAMES[1]
    assert [path.name for path in checkpoints.iterdir()] == ["step_6"]
    assert train(settings(checkpoints=4), tmp_path / "parts", "--stores", str(stores)).exit_code == 0
    ours, theirs = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name][w], theirs[name][w]) for name in ours for w in ours[name])


def test_a_run_from_the_model_is_not_gone_on_with_from_stores(settings, tmp_path):
    assert train(settings(), tmp_path / "out").exit_code == 0
    other = train(settings(), tmp_path / "out", "--stores", str(tmp_path / "stores"))
    fails(other, 2, "holds a result with other settings (from stores False, not True)")


def test_begun_anew_it_forgets_the_checkpoints(settings, tmp_path):
    stores = tmp_path / "stores"
    assert train(settings(), tmp_path / "out", "--stores", str(stores)).exit_code == 0
    changed = settings(lr=1e-2)
    anew = train(changed, tmp_path / "out", "--stores", str(stores), "--overwrite")
    assert anew.exit_code == 0, anew.output
    assert read_result(tmp_path / "out" / "result.json", TrainResult).config.lr == 1e-2


def test_stores_of_another_text_are_refused(settings, tmp_path):
    stores = tmp_path / "stores"
    assert train(settings(), tmp_path / "one", "--stores", str(stores)).exit_code == 0
    other = train(settings(seed=9), tmp_path / "two", "--stores", str(stores))
    fails(other, 2, "block1 is a store of something else (text")
    assert not (tmp_path / "two").exists()


def test_two_processes_train_what_one_does(settings, tmp_path):
    stores, config = tmp_path / "stores", settings(model={**_model(settings), "dtype": "float32"})
    one = train(config, tmp_path / "one", "--stores", str(stores))
    assert one.exit_code == 0, one.output
    codes, stderr = in_processes(2, config, tmp_path / "two", "--stores", str(stores))
    assert codes == [0, 0], stderr
    assert stderr.count("training block1_coefficient0\n") == 1  # one process speaks
    ours, theirs = weights(tmp_path / "one"), weights(tmp_path / "two")
    assert sorted(ours) == sorted(theirs) == NAMES
    for name in NAMES:
        for w in ours[name]:
            torch.testing.assert_close(ours[name][w], theirs[name][w], rtol=1e-3, atol=1e-4)
    results = [read_result(tmp_path / name / "result.json", TrainResult) for name in ("one", "two")]
    for a, b in zip(*(r.transcoders for r in results), strict=True):
        assert a.evaluations[-1].fvu == pytest.approx(b.evaluations[-1].fvu, rel=1e-3)


def _model(settings: Any) -> dict[str, Any]:
    return yaml.safe_load(Path(settings()).read_text())["model"]


def test_several_processes_without_stores_are_told_once(settings, tmp_path):
    codes, stderr = in_processes(2, settings(), tmp_path / "out")
    assert 0 not in codes
    lines = [line for line in stderr.splitlines() if line.startswith("error: ")]
    assert lines == ["error: 2 processes train from stores of derivatives: pass --stores FOLDER"]
    assert not (tmp_path / "out").exists()
