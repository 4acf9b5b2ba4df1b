import re
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

from faithfulness_plugin import AbsInputs, AbsNetwork, metrics
from faithfulness_plugin.benchmarks.absolute_value.report import fingerprint, write_report
from faithfulness_plugin.benchmarks.absolute_value.schema import AbsoluteValueResult
from faithfulness_plugin.benchmarks.readme import RESULT, RESULTS, filled_in, measured
from faithfulness_plugin.benchmarks.schema import read_result

README = (Path(__file__).resolve().parent.parent / "README.md").read_text(encoding="utf-8")
PLAIN_LOOP, SAELENS, HOOKS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


def test_the_tables_are_the_committed_results():
    for path in [RESULT, *RESULTS.glob("beyond/*/result.json")]:
        assert read_result(path, AbsoluteValueResult).complete
    for name, table in measured().items():
        assert filled_in(README, name, table) == README


def test_the_committed_table_and_figures_are_the_committed_results(tmp_path):
    result = read_result(RESULT, AbsoluteValueResult)
    for path in write_report(result, tmp_path):
        committed = RESULT.parent / path.name
        if path.suffix == ".md":
            assert committed.read_text(encoding="utf-8") == path.read_text(encoding="utf-8")
        else:  # pixels differ from one matplotlib to the next, what a figure was made from does not
            with Image.open(committed) as there, Image.open(path) as here:
                assert there.info["Source"] == here.info["Source"] == fingerprint(result)


def test_every_file_that_it_shows_is_there():
    prose = re.sub(r"```.*?```", "", README, flags=re.DOTALL)
    targets = re.findall(r"\]\((?!http)([^)#]+)\)", prose)
    assert len(targets) > 4
    for target in targets:
        assert (Path(__file__).resolve().parent.parent / target).exists(), target


def test_markers_that_are_missing_are_named():
    with pytest.raises(ValueError, match="the README has no"):
        filled_in("no markers", "name", "table")


def test_the_plain_loop_is_short():
    assert len(PLAIN_LOOP.strip().splitlines()) < 25


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
    exec(HOOKS, {})
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "tensor([0, 1, 2])"
    written = [int(line.split("[")[1].split(",")[0]) for line in lines[:3]]
    assert sorted(written) == [0, 1, 2]  # three features at p, one per coordinate
