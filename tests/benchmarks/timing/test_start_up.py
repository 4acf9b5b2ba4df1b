from typer.testing import CliRunner

from faithfulness_plugin.benchmarks.timing import start_up
from faithfulness_plugin.benchmarks.timing.start_up import TORCH, StartUpResult
from faithfulness_plugin.cli.app import BENCH, COMMANDS, app
from faithfulness_plugin.results.schema import read_result


def test_every_command_is_timed():
    assert set(start_up.HELP) == {"", *COMMANDS, *(f"bench {name}" for name in BENCH)}


def test_help_refusals_and_imports_are_timed_beside_the_import_of_torch(tmp_path, monkeypatch):
    monkeypatch.setattr(start_up, "HELP", ("",))
    monkeypatch.setattr(start_up, "IMPORTS", ("import json",))
    monkeypatch.setattr(start_up, "REFUSALS", ("bench comapre",))
    done = CliRunner().invoke(app, ["experiment", "start-up", "--rounds", "1", "--out", str(tmp_path)])
    assert done.exit_code == 0, done.output
    answers = read_result(tmp_path / "result.json", StartUpResult).answers
    assert answers is not None
    assert [of.what for of in answers] == [TORCH, "import json", "faithfulness --help", "faithfulness bench comapre"]
    assert answers[0].seconds > answers[1].seconds
    assert f"| `{TORCH}` | {answers[0].seconds:.2f} | 1.00 |" in done.stdout


def test_a_command_that_does_not_exit_as_it_should_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(start_up, "HELP", ())
    monkeypatch.setattr(start_up, "IMPORTS", ("import no_such_module",))
    monkeypatch.setattr(start_up, "REFUSALS", ())
    done = CliRunner().invoke(app, ["experiment", "start-up", "--rounds", "1", "--out", str(tmp_path)])
    assert done.exit_code == 1
    assert "import no_such_module exits with 1: " in done.stderr
