import re
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn
from typer.testing import CliRunner

from faithfulness_plugin import AbsInputs, AbsNetwork, metrics
from faithfulness_plugin.benchmarks.note.absolute_value.experiment import AbsoluteValue
from faithfulness_plugin.benchmarks.note.absolute_value.schema import AbsoluteValueResult
from faithfulness_plugin.benchmarks.readme import PAGES, RESULT, RESULTS, SPEED, fill_in, measured
from faithfulness_plugin.benchmarks.timing.speed import SpeedResult
from faithfulness_plugin.cli.app import app
from faithfulness_plugin.results.experiment import write_report
from faithfulness_plugin.results.schema import fingerprint, read_result

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), flags=re.DOTALL)


(PLAIN_LOOP,), (METHOD,) = blocks("README.md"), blocks("docs/benchmark.md")
TOPK, SAELENS, HOOKS = blocks("docs/guides/train.md")


def test_the_tables_are_the_committed_results():
    for path in [RESULT, *RESULTS.glob("beyond/*/result.json"), *RESULTS.glob("architectures/*/result.json")]:
        assert read_result(path, AbsoluteValueResult).complete
    assert read_result(SPEED, SpeedResult).complete
    pages = [page.read_text(encoding="utf-8") for page in PAGES]
    for name, table in measured().items():
        assert any(f"<!-- begin: {name} -->" in page for page in pages)
        assert [fill_in(page, name, table) for page in pages] == pages


def test_the_committed_table_and_figures_are_the_committed_results(tmp_path):
    result = read_result(RESULT, AbsoluteValueResult)
    for path in write_report(AbsoluteValue(), result, tmp_path):
        committed = RESULT.parent / path.name
        if path.suffix == ".md":
            assert committed.read_text(encoding="utf-8") == path.read_text(encoding="utf-8")
        else:  # pixels differ from one matplotlib to the next, what a figure was made from does not
            with Image.open(committed) as there, Image.open(path) as here:
                assert there.info["Source"] == here.info["Source"] == fingerprint(result)


def test_markers_come_in_pairs():
    begin, end = "<!-- begin: name -->", "<!-- end: name -->"
    assert fill_in("no markers", "name", "table") == "no markers"
    assert fill_in(f"a {begin} old {end} b", "name", "table") == f"a {begin}\n\ntable\n\n{end} b"
    for page in (begin, end, f"{end} {begin}"):
        with pytest.raises(ValueError, match="without the other, or in the wrong order"):
            fill_in(page, "name", "table")


def test_it_is_short_and_its_lines_of_saelens_are_those_of_the_script():
    assert len(README.splitlines()) <= 135
    (lines,) = re.findall(r"```diff\n(.*?)```", README, flags=re.DOTALL)
    matched = (ROOT / "adapters" / "examples" / "train_transcoder.py").read_text(encoding="utf-8")
    alone = (ROOT / "adapters" / "examples" / "train_sae.py").read_text(encoding="utf-8")
    for line in lines.splitlines():  # but for the offline model and text, which the script passes
        assert line[1:].replace("(cfg).run()", "(cfg, ") in (matched if line.startswith("+") else alone)


def test_the_plain_loop_is_short():
    assert len(PLAIN_LOOP.strip().splitlines()) < 25


def test_the_method_is_short_and_runs_in_the_benchmark_as_it_stands(tmp_path, monkeypatch):
    assert len([line for line in METHOD.splitlines() if line.strip()]) <= 36
    shorter = {"range(2000)": "range(20)", "(0.05, 0.1, 0.2, 0.4)": "(0.1,)"}
    assert all(METHOD.count(part) == 1 for part in shorter)
    method = METHOD
    for part, shorter_part in shorter.items():
        method = method.replace(part, shorter_part)
    (tmp_path / "my_method.py").write_text(method)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    args = ["bench", "run", "--method", "my_method:method", "--task", "absolute_value", "--seeds", "1", "--jobs", "1"]
    done = CliRunner().invoke(app, [*args, "--out", "out/mine"])
    assert done.exit_code == 0, done.output
    assert "| my_method:method |" in done.stdout


class View:
    """A Sequential of encoder, ReLU and decoder, with a transcoder's names."""

    def __init__(self, student: nn.Sequential) -> None:
        self.student = student
        self.W_dec = student[2].weight.T

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        return self.student[:2](x)

    def decode(self, feature_acts: torch.Tensor) -> torch.Tensor:
        return self.student[2](feature_acts)


@pytest.mark.slow
def test_the_plain_loop_removes_the_datapoint_feature_that_forms_without_it():
    fractions, norms = {}, {}
    for coefficient in ("0.0", "10.0"):
        names: dict[str, nn.Sequential] = {}
        exec(PLAIN_LOOP.replace("jitter=0.5), 10.0", f"jitter=0.5), {coefficient}"), names)
        point = AbsInputs(16).point
        fractions[coefficient] = metrics.memorization(View(names["student"]), point, layer=AbsNetwork(16)).fraction
        norms[coefficient] = metrics.off_diagonal_energy(names["student"], point).norm
    assert fractions["0.0"] > 0.8
    assert norms["0.0"] > 0.9
    assert fractions["10.0"] < 0.02
    assert norms["10.0"] < 0.1


@pytest.mark.slow
def test_the_other_examples_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    exec(SAELENS, {})
    names: dict = {}
    exec(TOPK, names)
    assert "method='gram'" in capsys.readouterr().out.splitlines()[-1]
    fvu = metrics.reconstruction(names["result"].transcoder, names["layer"], names["rows"][:1000]).fvu
    assert fvu < 0.2
    exec(HOOKS, {})
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "tensor([0, 1, 2])"
    written = [int(line.split("[")[1].split(",")[0]) for line in lines[:3]]
    assert sorted(written) == [0, 1, 2]  # three features at p, one per coordinate
