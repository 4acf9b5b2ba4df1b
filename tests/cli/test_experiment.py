import re

import pytest
from counting import CountResult
from typer.testing import CliRunner

from faithfulness_plugin.benchmarks.experiments import EXPERIMENTS, Listed
from faithfulness_plugin.cli.app import app
from faithfulness_plugin.cli.experiment import TABLE
from faithfulness_plugin.cli.lazy import Entry, attribute_at
from faithfulness_plugin.results.schema import read_result


@pytest.fixture(autouse=True)
def counting(monkeypatch):
    listed = Listed(
        "counting:Counting", "counting:CountConfig", "counts", options="counting:CountOptions", parallel=True
    )
    monkeypatch.setitem(EXPERIMENTS, "counting", listed)
    monkeypatch.setitem(TABLE, "counting", Entry(listed.place, listed.about))


def call(*arguments, out=None):
    where = [] if out is None else ["--out", str(out)]
    return CliRunner().invoke(app, ["experiment", *map(str, arguments), *where])


def test_the_list_names_the_configs_and_options_of_the_experiments():
    for listed in EXPERIMENTS.values():
        experiment = attribute_at(listed.place)
        assert experiment.config_class is attribute_at(listed.config)
        assert experiment.options_class is attribute_at(listed.options)


def test_the_names_are_listed_and_a_wrong_one_is_answered_by_the_nearest():
    assert "counting" in call("--help").output
    result = call("countin")
    assert result.exit_code == 2
    assert "there is no experiment countin: did you mean counting?" in result.output


def test_every_field_is_an_option_with_its_description_and_default():
    text = " ".join(call("counting", "--help").output.split())
    for part in ("What is added [default: 1]", "How many seeds [default: 2]", "Up or down [default: up]", "--names"):
        assert part in text
    assert "--deep" not in text
    assert "Example: faithfulness experiment counting" in text


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_what_a_command_says_of_itself_has_no_indentation_within_lines(name):
    about, _, options = call(name, "--help").output.partition("Options:")
    assert options
    assert not re.search(r"\S {2,}\S", about)


def test_it_runs_writes_and_shows_again(tmp_path):
    first = call("counting", "--step", 2, "--seeds", 3, "--seed", 4, out=tmp_path)
    assert first.exit_code == 0
    assert first.stdout == "counts: [8, 10, 12]\n\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["result.json", "table.md"]
    before = (tmp_path / "result.json").read_bytes()
    again = call("counting", "--step", 2, "--seeds", 3, "--seed", 4, out=tmp_path)
    assert "is complete; shown again, not run again" in again.stderr
    assert again.stdout == first.stdout
    assert (tmp_path / "result.json").read_bytes() == before


def test_a_file_of_settings_gives_what_options_override(tmp_path):
    (tmp_path / "mine.yaml").write_text("step: 3\nseeds: [1, 2]\ndeep: {a: 1}\n")
    result = call("counting", "--settings", tmp_path / "mine.yaml", "--step", 5, out=tmp_path / "out")
    assert result.exit_code == 0
    written = read_result(tmp_path / "out" / "result.json", CountResult)
    assert written.counts == [5, 10]
    assert written.config.deep == {"a": 1}
    (tmp_path / "mine.yaml").write_text("stepp: 3\n")
    result = call("counting", "--settings", tmp_path / "mine.yaml", out=tmp_path / "other")
    assert result.exit_code == 2
    assert "there is no setting stepp: did you mean step?" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--step", "0"], "--step: Input should be greater than or equal to 1"),
        (["--kind", "sideways"], "--kind: Input should be 'up' or 'down'"),
        (["--seeds", "0"], "--seeds 0: at least one seed is needed"),
        (["--jobs", "0"], "--jobs 0: pass the number of parts at a time"),
        (["--pace", "1"], "No such option"),
    ],
)
def test_bad_arguments_exit_with_2_and_one_line(tmp_path, arguments, message):
    result = call("counting", *arguments, out=tmp_path)
    assert result.exit_code == 2
    assert message in result.stderr
    assert "Traceback" not in result.output
    assert not list(tmp_path.iterdir())


def test_jobs_are_an_option_of_experiments_whose_parts_can_run_together_alone(monkeypatch, tmp_path):
    assert "Parts at a time" in call("counting", "--help").output
    monkeypatch.setitem(EXPERIMENTS, "counting", EXPERIMENTS["counting"]._replace(parallel=False))
    assert "No such option" in call("counting", "--jobs", 2, out=tmp_path).stderr


def test_an_interrupted_one_resumes(tmp_path):
    stopped = call("counting", "--seeds", 3, "--stop-after", 2, out=tmp_path)
    assert stopped.exit_code == 130
    assert "holds 2 of 3 counts; the same command resumes from there" in stopped.stderr
    assert "PARTIAL" in stopped.stdout
    resumed = call("counting", "--seeds", 3, out=tmp_path)
    assert resumed.exit_code == 0
    assert "holds 2 of 3 counts: resuming" in resumed.stderr
    assert resumed.stdout == "counts: [0, 1, 2]\n\n"


def test_what_stops_before_the_first_part_leaves_what_was_there(tmp_path):
    call("counting", out=tmp_path)
    before = (tmp_path / "result.json").read_bytes()
    stopped = call("counting", "--step", 2, "--stop-after", 0, "--overwrite", out=tmp_path)
    assert stopped.exit_code == 130
    assert "nothing has been begun, or replaced" in stopped.stderr
    assert (tmp_path / "result.json").read_bytes() == before


@pytest.mark.parametrize(("error", "code"), [("failure", 1), ("usage", 2), ("part", 1)])
def test_an_error_is_one_line_and_what_is_done_stays(tmp_path, error, code):
    result = call("counting", "--seeds", 3, "--stop-after", 1, "--error", error, out=tmp_path)
    assert result.exit_code == code
    assert result.stderr.count("error: ") == 1
    assert "any more" not in result.stderr
    assert read_result(tmp_path / "result.json", CountResult).counts == [0]


def test_another_experiments_folder_and_another_version_are_left_alone(tmp_path):
    path = tmp_path / "result.json"
    path.write_text('{"benchmark": "speed"}')
    result = call("counting", out=tmp_path)
    assert result.exit_code == 2
    assert "is a result of another command" in result.stderr
    call("counting", out=tmp_path / "own")
    text = (tmp_path / "own" / "result.json").read_text().replace('"schema_version": 1', '"schema_version": 2')
    path.write_text(text)
    result = call("counting", out=tmp_path)
    assert result.exit_code == 2
    assert "schema version 2" in result.stderr
    assert path.read_text() == text
