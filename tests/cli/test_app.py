import os
import shutil
import signal
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import forks
import pytest
from typer.testing import CliRunner

from faithfulness_plugin.benchmarks.note.absolute_value.schema import AbsoluteValueResult
from faithfulness_plugin.cli.app import app
from faithfulness_plugin.results.schema import read_result

SMALL = ["reproduce", "--quick", "--d-in", "4", "--d-sae", "12", "--density", "0.4", "--n-steps", "20"]


def call(*arguments: str):
    return CliRunner().invoke(app, list(arguments))


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """A small run: what the command said, and its folder."""
    folder = tmp_path_factory.mktemp("finished")
    return call(*SMALL, "--out", str(folder)), folder


@pytest.fixture
def finished(first, tmp_path) -> Path:
    """The folder of a small run that is finished, the test's own."""
    return shutil.copytree(first[1], tmp_path / "finished")


def test_help_has_an_example():
    result = call("reproduce", "--help")
    assert result.exit_code == 0
    assert "Example: faithfulness reproduce" in result.output
    assert "reproduce" in call("--help").output


def test_it_writes_result_table_and_figures_and_shows_them_again(first, finished):
    ran, _ = first
    assert ran.exit_code == 0
    assert ran.stdout.startswith("|  | baseline | repetition | repetition + Jacobian |")
    names = ["circuit_projection.png", "jacobian_at_point.png", "memorization.png", "result.json", "table.md"]
    assert sorted(p.name for p in finished.iterdir()) == names
    assert ran.stderr.count("seed 0: m ") == 6
    before = (finished / "result.json").read_bytes()
    again = call(*SMALL, "--out", str(finished))
    assert again.exit_code == 0
    assert "shown again, not run again" in again.stderr
    assert again.stdout == ran.stdout
    assert (finished / "result.json").read_bytes() == before
    replaced = call(*SMALL, "--out", str(finished), "--seed", "1", "--overwrite")
    assert replaced.exit_code == 0
    assert read_result(finished / "result.json", AbsoluteValueResult).config.seeds == (1,)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--density", "1.5"], "--density: Input should be less than or equal to 1"),
        (["--n-ones", "1"], "n_ones=1: memorization needs 2 ones or more"),
        (["--n-ones", "9"], "at most d_in=4 fit"),
        (["--seeds", "0"], "--seeds 0: at least one seed"),
        (["--seed", "-1"], "--seed: Input should be greater than or equal to 0"),
        (["--seed", "1000003"], "seed 1000003 draws the validation rows"),
        (["--repeat-frac", "1"], "too few to measure it"),
        (["--repeat-frac", "0.00001"], "too few to measure it"),
        (["--sparsity-coefficient", "inf"], "--sparsity-coefficient: Input should be a finite number"),
        (["--jobs", "0"], "--jobs 0: pass the number of runs"),
        (["--d-in", "many"], "a valid integer"),
        (["--speed", "1"], "No such option"),
    ],
)
def test_bad_arguments_exit_with_2_and_a_line(tmp_path, arguments, message):
    result = call(*SMALL, "--out", str(tmp_path), *arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("text", ["{", '{"a": 1}'])
def test_a_corrupt_or_foreign_result_is_left_alone(tmp_path, text):
    path = tmp_path / "result.json"
    path.write_text(text)
    result = call(*SMALL, "--out", str(tmp_path))
    assert result.exit_code == 2
    assert "is corrupt, or not a result of this command" in result.stderr
    assert path.read_text() == text


def test_more_seeds_extend_a_result(finished):
    before = read_result(finished / "result.json", AbsoluteValueResult)
    more = call(*SMALL, "--seeds", "2", "--out", str(finished), "--json")
    assert more.exit_code == 0, more.output
    assert "holds 6 of 12 runs: resuming" in more.stderr
    found = AbsoluteValueResult.model_validate_json(more.stdout)
    assert [run for run in found.runs if run.seed == 0] == before.runs
    assert {summary.emergence.n for summary in found.summary} == {2}


def test_version_and_quiet(tmp_path):
    assert call("--version").stdout.strip() == version("faithfulness-plugin")
    quiet = call(*SMALL, "--out", str(tmp_path), "--quiet")
    assert quiet.exit_code == 0
    assert quiet.stderr == ""
    assert quiet.stdout.startswith("|  | baseline |")
    assert call("--quiet", "reproduce", "--density", "2").stderr.startswith("error: --density")


def test_files_of_others_are_left_alone(tmp_path):
    (tmp_path / "table.md").write_text("mine")
    result = call(*SMALL, "--out", str(tmp_path))
    assert result.exit_code == 2
    assert "is not empty and holds no result.json" in result.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["table.md"]


def test_a_figure_that_cannot_be_written_is_named(finished):
    (finished / "memorization.png").unlink()
    (finished / "memorization.png").mkdir()
    result = call(*SMALL, "--out", str(finished))
    assert result.exit_code == 1
    assert "memorization.png cannot be written" in result.stderr


def test_a_result_of_other_settings_is_left_alone(finished):
    before = (finished / "result.json").read_bytes()
    result = call(*SMALL, "--out", str(finished), "--n-steps", "21")
    assert result.exit_code == 2
    assert "other settings (n_steps 20, not 21)" in result.stderr
    assert (finished / "result.json").read_bytes() == before


def test_an_unwritable_out_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    result = call(*SMALL, "--out", str(tmp_path / "file"))
    assert result.exit_code == 2
    assert "choose another --out" in result.stderr


def test_a_run_that_fails_exits_with_1_and_keeps_what_is_done(tmp_path, monkeypatch):
    from faithfulness_plugin import NonFiniteError
    from faithfulness_plugin.benchmarks.note.scan import shard

    whole = shard._train

    def one_fails(spec, points, folder):
        if any(point.arm == "repetition" for point in points):
            raise NonFiniteError("step 3: the inputs contain NaN")
        return whole(spec, points, folder)

    monkeypatch.setattr(shard, "_train", one_fails)
    result = call(*SMALL, "--out", str(tmp_path))
    assert result.exit_code == 1
    failed = "error: 1 of 6 runs failed, the first (repetition, seed 0): step 3: the inputs contain NaN"
    assert failed in result.stderr
    assert "holds 5 of 6 runs" in result.stderr
    assert len(read_result(tmp_path / "result.json", AbsoluteValueResult).runs) == 5


CONSOLE_SCRIPT = Path(sys.executable).parent / "faithfulness"
LONG = ["reproduce", "--n-steps", "1500"]


def test_ctrl_c_leaves_a_readable_partial_result_and_exits_with_130(tmp_path):
    # a session of its own, for the signal to reach the command as from a terminal
    process = subprocess.Popen(
        [CONSOLE_SCRIPT, *LONG, "--out", tmp_path, "--quick"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # background shells pass on that it is ignored
    )
    assert process.stderr is not None
    first = process.stderr.readline()
    assert first.startswith("[1/6]"), first + process.stderr.read()
    os.killpg(process.pid, signal.SIGINT)
    stdout, stderr = process.communicate(timeout=120)
    assert_partial(tmp_path, process.returncode, stdout, stderr)


def test_ctrl_c_reaches_the_workers_too(tmp_path):
    command = forks.start(CONSOLE_SCRIPT, *LONG, "--out", tmp_path, "--seeds", "1", "--jobs", "2", session=True)
    with open(command.stderr.fileno(), closefd=False) as stderr:
        first = stderr.readline()
        assert first.startswith("[1/6]"), first + stderr.read()
    assert command.process.pid is not None
    os.killpg(command.process.pid, signal.SIGINT)
    done = command.wait()
    assert_partial(tmp_path, done.returncode, done.stdout, done.stderr)


def assert_partial(folder: Path, code: int, stdout: str, stderr: str) -> None:
    assert code == 130
    assert "the same command resumes from there" in stderr
    assert "Traceback" not in stderr
    assert "PARTIAL" in stdout
    result = read_result(folder / "result.json", AbsoluteValueResult)
    assert 1 <= len(result.runs) < 6
    assert not result.complete
