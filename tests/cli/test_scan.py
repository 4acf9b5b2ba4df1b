from pathlib import Path

import pytest
from typer.testing import CliRunner

from faithfulness_plugin.benchmarks.note.scan.schema import ScanResult
from faithfulness_plugin.cli.app import app
from faithfulness_plugin.results.schema import read_result

TINY = ["--set", "d_in=4", "--set", "d_sae=12", "--set", "density=0.5", "--set", "n_steps=5", "--set", "batch_size=16"]


def call(*arguments: str):
    return CliRunner().invoke(app, list(arguments))


def scan(*arguments: str):
    return call("scan", "--jobs", "1", *arguments)


def test_from_flags_to_a_typed_result_and_again(tmp_path):
    flags = [
        "--vary",
        "sparsity_coefficient=0.1,2e-1",
        "--vary",
        "estimator=jvp,secant",
        "--seeds",
        "2",
        "--seed",
        "3",
        *TINY,
    ]
    result = scan(*flags, "--out", str(tmp_path))
    assert result.exit_code == 0, result.output
    found = read_result(tmp_path / "result.json", ScanResult)
    assert found.complete
    assert found.spec.grid == {"sparsity_coefficient": [0.1, 0.2], "estimator": ["jvp", "secant"]}
    assert len(found.trained) == 8
    assert {t.seed for t in found.trained} == {3, 4}
    assert "| all | 0.1 | jvp | 0 of 2" in result.stdout
    assert "[8/8]" in result.stderr
    again = scan(*flags, "--out", str(tmp_path))
    assert again.exit_code == 0
    assert "is complete; shown again" in again.stderr
    assert again.stdout == result.stdout


def test_more_seeds_extend_a_result_and_fewer_are_refused(tmp_path):
    flags = ["--vary", "sparsity_coefficient=0.1,0.2", *TINY, "--out", str(tmp_path)]
    assert scan(*flags, "--seeds", "1").exit_code == 0
    before = read_result(tmp_path / "result.json", ScanResult)
    more = scan(*flags, "--seeds", "2")
    assert more.exit_code == 0, more.output
    assert "holds 2 of 4 transcoders: resuming" in more.stderr
    found = read_result(tmp_path / "result.json", ScanResult)
    assert found.complete
    assert [t for t in found.trained if t.seed == 0] == before.trained
    assert len(found.trained) == 4
    fewer = scan(*flags, "--seeds", "1")
    assert fewer.exit_code == 2
    assert "other settings (seeds 2, not 1)" in fewer.stderr
    other = scan(*flags, "--seeds", "3", "--set", "n_steps=6")
    assert other.exit_code == 2
    assert "other settings (base" in other.stderr


def test_from_a_file_changed_by_flags(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(
        "arms: {a: {}, b: {jitter: 0.2, jacobian_coefficient: 1.0}}\ngrid: {repeat_frac: [0.1, 0.2]}\nseeds: 1\n"
    )
    result = scan(str(path), *TINY, "--vary", "repeat_frac=0.3", "--out", str(tmp_path / "out"))
    assert result.exit_code == 0, result.output
    found = read_result(tmp_path / "out" / "result.json", ScanResult)
    assert found.spec.name == "mine"
    assert [(t.arm, t.values["repeat_frac"]) for t in found.trained] == [("a", 0.3), ("b", 0.3)]


def test_presets_are_listed():
    listed = scan("--preset", "list").stdout.split()
    assert {"emergence", "pareto", "audit"} <= set(listed)
    assert listed == sorted(listed)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "there is nothing to scan"),
        (["--preset", "emergense"], "did you mean emergence?"),
        (["--vary", "sparsity_coeficient=1"], "did you mean sparsity_coefficient?"),
        (["--vary", "jitter="], "the grid is empty"),
        (["--vary", "jitter"], "write SETTING=VALUE"),
        (["--vary", "jitter=0.1", "--set", "jiter=0"], "did you mean jitter?"),
        (["--vary", "density=0.1,7"], "density"),
        (["--vary", "jitter=0.1", "--seeds", "0"], "seeds"),
        (["--vary", "jitter=0.1", "--set", "layer=["], "layer"),
        (["--vary", "jitter=0.1", "--backend", "spark"], "choose local or ray"),
        (["--vary", "jitter=0.1", "--jobs", "0"], "--jobs 0"),
        (["--vary", "jitter=0.1", "--shard-size", "0"], "--shard-size 0"),
        (["/dev/null"], "/dev/null is empty: give at least a grid"),
        (["missing.yaml"], "missing.yaml cannot be read"),
        (["a.yaml", "--preset", "pareto"], "not both"),
        (["--preset", "audit", "--set", "jitter=1"], "leave --vary and --set out"),
        (["--preset", "audit", "--seeds", "0"], "at least one seed"),
    ],
)
def test_bad_arguments_end_in_one_line_and_exit_2(tmp_path, arguments, message):
    result = call("scan", *arguments, "--out", str(tmp_path / "out"))
    assert result.exit_code == 2
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_grid_that_takes_more_than_an_hour_says_so_and_asks_for_yes(tmp_path):
    grid = ["--vary", "n_steps=100000000", "--seeds", "2", "--set", "d_in=4", "--set", "d_sae=12"]
    result = scan(*grid, "--out", str(tmp_path / "out"))
    assert result.exit_code == 2
    assert "2 transcoders on 1 worker: about" in result.stderr
    assert "more than an hour" in result.stderr
    assert "pass --yes" in result.stderr
    assert not (tmp_path / "out").exists()


def test_transcoders_that_fail_are_told_and_the_others_are_kept(tmp_path):
    result = scan("--vary", "lr=1e30,1e-3", "--seeds", "2", *TINY, "--out", str(tmp_path))
    assert result.exit_code == 1
    assert "error: 2 of 4 transcoders failed, the first (all, lr 1e+30, seed 0): " in result.stderr
    assert len(read_result(tmp_path / "result.json", ScanResult).trained) == 2


def test_another_scan_in_the_folder_is_kept(tmp_path):
    first = ["--vary", "jitter=0.1", "--seeds", "1", *TINY, "--out", str(tmp_path)]
    assert scan(*first).exit_code == 0
    before = (tmp_path / "result.json").read_bytes()
    result = scan("--vary", "jitter=0.2", "--seeds", "1", *TINY, "--out", str(tmp_path))
    assert result.exit_code == 2
    assert "other settings (grid" in result.stderr
    assert (tmp_path / "result.json").read_bytes() == before


def test_a_full_disk_keeps_what_is_done_and_exits_with_1(tmp_path, monkeypatch):
    from faithfulness_plugin.results import experiment
    from faithfulness_plugin.results.schema import ResultError

    original, calls = experiment.write_text, []

    def full(path: Path, text: str) -> None:
        calls.append(path)
        if len(calls) == 3:  # an empty result is the first
            raise ResultError(f"{path} cannot be written (No space left on device): choose another --out")
        original(path, text)

    monkeypatch.setattr(experiment, "write_text", full)
    flags = ["--vary", "jitter=0.1", "--seeds", "3", *TINY, "--shard-size", "1", "--out", str(tmp_path)]
    result = scan(*flags)
    assert result.exit_code == 1
    assert "No space left on device" in result.stderr
    assert "holds 1 of 3 transcoders; the same command resumes from there" in result.stderr
    assert len(read_result(tmp_path / "result.json", ScanResult).trained) == 1
    monkeypatch.setattr(experiment, "write_text", original)
    assert scan(*flags).exit_code == 0
    assert len(read_result(tmp_path / "result.json", ScanResult).trained) == 3


def test_a_report_of_a_folder_without_results(tmp_path):
    bad = call("report", "--results", str(tmp_path / "nothing"))
    assert bad.exit_code == 2
    assert "holds no result of a preset" in bad.stderr
