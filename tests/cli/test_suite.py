from typing import Any

import pytest
import small_suite
from command_line import fails
from small_suite import scores
from typer.testing import CliRunner

from faithfulness_plugin.cli.app import app

METHODS = {
    "a": lambda seed, s: scores(3 - 5 * s, 0.5 + seed / 100),
    "b": lambda seed, s: scores(3 - 5 * s, 0.25 + seed / 100),
}
TINY = (
    "--quick",
    "--task",
    "absolute_value",
    "--method",
    "topk-none",
    "--seeds",
    "1",
    "--n-steps",
    "25",
    "--jobs",
    "1",
)


def bench(*args: str) -> Any:
    return CliRunner().invoke(app, ["bench", *args])


@pytest.fixture
def made_up(tmp_path):
    (tmp_path / "result.json").write_text(small_suite.result(METHODS).model_dump_json())
    return str(tmp_path)


def test_run_shows_its_table_and_again_what_is_there_and_reruns(tmp_path):
    out = str(tmp_path / "out")
    first = bench("run", *TINY, "--out", out)
    assert first.exit_code == 0, first.output
    assert "| topk-none |" in first.stdout
    assert "[4/4] absolute_value, topk-none: 4 trials, headline up to" in first.stderr
    again = bench("run", *TINY, "--out", out)
    assert again.stdout == first.stdout
    assert "is complete; shown again" in again.stderr
    rerun = bench("rerun", out, "--trials", "2", "--jobs", "1")
    assert rerun.exit_code == 0, rerun.output
    assert "2 of 2 trials agree to 1e-06" in rerun.stdout


def test_a_method_that_fails_is_named_the_others_run_and_the_exit_code_is_1(tmp_path):
    methods = ("--method", "outside_methods:always_raises", "--method", "topk-none")
    for _ in ("run", "shown again"):
        done = bench("run", "--quick", *methods, "--task", "absolute_value", *TINY[5:], "--out", str(tmp_path / "out"))
        assert done.exit_code == 1, done.output
        assert "outside_methods:always_raises at absolute_value: 2 trials failed: RuntimeError: no luck" in done.stderr
        assert "| outside_methods:always_raises | 0 of 0, 2 trials failed |" in done.stdout
        assert "| topk-none |" in done.stdout


@pytest.mark.parametrize(
    ("message", "args"),
    [
        ("leave out one of --quick and --size full", ("--size", "full")),
        ("no task 'absolute': did you mean absolute_value?", ("--task", "absolute")),
        ("there is no method 'topk'", ("--method", "topk")),
        ("cannot be imported (No module named 'mine')", ("--method", "mine:method")),
        ("--jobs 0", ("--jobs", "0")),
        ("--backend slurm", ("--backend", "slurm")),
        ("--seeds 0", ("--seeds", "0")),
        ("--n-steps: Input should be greater than or equal to 20", ("--n-steps", "3")),
        ("--time-limit: Input should be greater than 0", ("--time-limit", "0")),
    ],
)
def test_bad_arguments_of_run_say_what_to_do(tmp_path, message, args):
    fails(bench("run", "--quick", "--out", str(tmp_path / "out"), *args), 2, message)
    assert not (tmp_path / "out").exists()


def test_an_unknown_size_is_named(tmp_path):
    fails(bench("run", "--size", "huge", "--out", str(tmp_path / "out")), 2, "--size huge: choose from quick, standard")


def test_compare_in_every_format_and_to_a_file(made_up, tmp_path):
    assert "| absolute_value | a | 3 | 0.250" in bench("compare", made_up, "--against", "b").stdout
    assert r"\toprule" in bench("compare", made_up, "--against", "b", "--format", "latex").stdout
    out = tmp_path / "table.csv"
    assert bench("compare", made_up, "--against", "b", "--format", "csv", "--out", str(out)).exit_code == 0
    assert out.read_text().startswith("task,method,seeds,headline mean")


def test_card_and_list(made_up, tmp_path):
    done = bench("card", made_up, "--method", "a", "--against", "b", "--out", str(tmp_path / "card.png"))
    assert done.exit_code == 0, done.output
    assert (tmp_path / "card.png").exists()
    listed = bench("list").stdout
    for word in ("two_hops", "jumprelu-skip-secant", "standard", "response_error_data"):
        assert word in listed


@pytest.mark.parametrize(
    ("message", "args"),
    [
        ("no method 'c'", ("compare", "{}", "--against", "c")),
        ("--format docx", ("compare", "{}", "--against", "a", "--format", "docx")),
        ("cannot be read", ("compare", "{}/nothing.json", "--against", "a")),
        ("pass --method, such as a", ("card", "{}")),
        ("let its name end in", ("card", "{}", "--method", "a", "--out", "card")),
        ("--trials 0", ("rerun", "{}", "--trials", "0")),
        ("--jobs 0", ("rerun", "{}", "--jobs", "0")),
        ("there is no method 'a'", ("rerun", "{}")),
    ],
)
def test_bad_arguments_of_the_others(made_up, message, args):
    fails(bench(*(arg.format(made_up) for arg in args)), 2, message)
