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
from faithfulness_plugin.store import DerivativeStore, layer_file

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


def kept_files(stores: Path) -> dict[str, tuple[int, int]]:
    """The size and time of each file."""
    return {path.name: (path.stat().st_size, path.stat().st_mtime_ns) for path in stores.glob("block1/*.safetensors")}


def test_rows_and_weights_are_kept_once_for_any_derivative(settings, tmp_path):
    whole, stores = tmp_path / "whole", tmp_path / "stores"
    assert train(settings(), tmp_path / "before", "--stores", str(whole)).exit_code == 0
    first = train(settings(), tmp_path / "one", "--stores", str(stores), "--keep", "rows")
    assert first.exit_code == 0, first.output
    result = read_result(tmp_path / "one" / "result.json", TrainResult)
    assert result.config.stores.keep == "rows"
    assert [t.name for t in result.transcoders] == NAMES
    assert all(t.evaluations[-1].fvu < t.evaluations[0].fvu for t in result.transcoders)
    rows, before = ([of for name, of in kept_files(folder).items() if "rows" in name] for folder in (stores, whole))
    assert len(rows) == len(before)
    assert sum(size for size, _ in rows) <= sum(size for size, _ in before) / 2
    found = kept_files(stores)
    for n, jacobian in enumerate([{"estimator": "secant", "probe": "pair"}, {"probe": "rademacher", "n_probes": 2}]):
        other = train(
            settings(jacobian=jacobian, stores={"keep": "rows"}), tmp_path / f"later{n}", "--stores", str(stores)
        )
        assert other.exit_code == 0, other.output
    assert kept_files(stores) == found
    fails(
        train(settings(), tmp_path / "mixed", "--stores", str(stores)),
        2,
        "block1 is a store of something else (weights True, not False",
    )


def test_the_dtype_of_stores_is_chosen_and_what_it_does_is_said(settings, tmp_path):
    stores, config = tmp_path / "stores", settings(model={**_model(settings), "dtype": "float32"})
    options = ["--stores", str(stores), "--keep", "rows", "--store-dtype", "bfloat16"]
    done = train(config, tmp_path / "out", *options)
    assert done.exit_code == 0, done.output
    assert "block1 keeps rows in bfloat16; relative errors: x 0.00" in done.stderr
    assert DerivativeStore.open(stores / "block1").index.dtype == "bfloat16"
    exact = train(config, tmp_path / "exact", "--stores", str(tmp_path / "wide"), "--keep", "rows")
    assert exact.exit_code == 0
    assert "relative errors" not in exact.stderr
    fvu = [
        [t.evaluations[-1].fvu for t in read_result(tmp_path / name / "result.json", TrainResult).transcoders]
        for name in ("out", "exact")
    ]
    assert fvu[0] == pytest.approx(fvu[1], rel=0.05)


def test_stopped_on_rows_it_goes_on_only_with_the_same_stores(settings, tmp_path, monkeypatch):
    stores, real = ["--stores", str(tmp_path / "stores"), "--keep", "rows"], train_stored.StoredRows.__next__
    assert train(settings(checkpoints=4), tmp_path / "whole", *stores).exit_code == 0
    served = []

    def stopped(rows: Any) -> torch.Tensor:
        served.append(rows.batch)
        if rows.batch == 7 and served.count(7) == 2:  # of the second transcoder, which is matched
            raise KeyboardInterrupt
        return real(rows)

    with monkeypatch.context() as within:
        within.setattr(train_stored.StoredRows, "__next__", stopped)
        assert train(settings(checkpoints=4), tmp_path / "parts", *stores).exit_code == 130
    other = train(settings(checkpoints=4), tmp_path / "parts", *stores[:2])
    fails(other, 2, "holds a result with other settings (stores {'keep': 'rows', 'dtype': None}, not {'keep': 'deri")
    assert train(settings(checkpoints=4), tmp_path / "parts", *stores).exit_code == 0
    ours, theirs = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    for name in NAMES:
        for w in ours[name]:
            torch.testing.assert_close(ours[name][w], theirs[name][w])


def test_an_opaque_layer_is_refused_in_one_line(settings, tmp_path, monkeypatch):
    monkeypatch.setattr(layer_file, "checked_mlp_weights", lambda *_: None)
    refused = train(settings(), tmp_path / "out", "--stores", str(tmp_path / "stores"), "--keep", "rows")
    fails(refused, 2, "the weights of a HookedLayer are not known, or not all that it computes, so rows alone are not")


def test_settings_of_stores_need_stores(settings, tmp_path):
    for options in (["--keep", "rows"], ["--store-dtype", "float16"]):
        fails(train(settings(), tmp_path / "out", *options), 2, "are for training from stores: pass --stores FOLDER")
    fails(train(settings(), tmp_path / "out", "--keep", "all"), 2, "stores.keep: Input should be 'derivatives' or")


def test_two_processes_train_together_on_rows_and_weights(settings, tmp_path):
    config = settings(model={**_model(settings), "dtype": "float32"}, stores={"keep": "rows"})
    codes, stderr = in_processes(2, config, tmp_path / "two", "--stores", str(tmp_path / "stores"))
    assert codes == [0, 0], stderr
    assert train(config, tmp_path / "one", "--stores", str(tmp_path / "stores")).exit_code == 0
    results = [read_result(tmp_path / name / "result.json", TrainResult) for name in ("one", "two")]
    for a, b in zip(*(r.transcoders for r in results), strict=True):  # probes go between rows of one process
        assert a.evaluations[-1].fvu == pytest.approx(b.evaluations[-1].fvu, rel=0.1 if a.coefficient else 1e-3)


def _model(settings: Any) -> dict[str, Any]:
    return yaml.safe_load(Path(settings()).read_text())["model"]


def test_several_processes_without_stores_are_told_once(settings, tmp_path):
    codes, stderr = in_processes(2, settings(), tmp_path / "out")
    assert 0 not in codes
    lines = [line for line in stderr.splitlines() if line.startswith("error: ")]
    assert lines == ["error: 2 processes train from stores of derivatives: pass --stores FOLDER"]
    assert not (tmp_path / "out").exists()
