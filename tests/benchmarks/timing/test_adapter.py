import importlib.util

import pytest
from command_line import fails
from typer.testing import CliRunner

from faithfulness_plugin.benchmarks.readme import RESULTS
from faithfulness_plugin.benchmarks.timing.adapter import OverheadConfig, OverheadResult, Timings, table
from faithfulness_plugin.cli.app import app
from faithfulness_plugin.results.schema import Environment, read_result

INSTALLED = importlib.util.find_spec("sparsify") is not None


def test_ratios_are_of_rounds_not_of_medians():
    result = OverheadResult(
        complete=True,
        environment=Environment.here("cpu"),
        processor="one",
        config=OverheadConfig(library="sparsify", threads=2),
        step=Timings(alone=[0.1, 0.2, 0.4], matched={"jvp": [0.15, 0.22, 0.8]}),
        loop=Timings(alone=[1.0, 1.0, 1.0], matched={"jvp": [1.1, 1.2, 1.3]}),
    )
    *_, alone, matched = table([result]).splitlines()
    assert [cell.strip() for cell in alone.split("|")[3:-1]] == ["200", "1", "1000", "1"]
    assert [cell.strip() for cell in matched.split("|")[3:-1]] == [
        "220",
        "1.50 (1.10 to 2.00)",
        "1200",
        "1.20 (1.10 to 1.30)",
    ]


@pytest.mark.parametrize("library", ["sparsify", "dictionary_learning"])
def test_in_the_committed_loops_the_term_costs_less_than_half_of_the_library(library):
    result = read_result(RESULTS / "adapter_overhead" / library / "result.json", OverheadResult)
    assert result.complete
    assert result.config == OverheadConfig(library=library, threads=result.config.threads)
    assert result.loop is not None
    for matched in result.loop.matched.values():
        assert all(a < 1.5 * b for a, b in zip(matched, result.loop.alone, strict=True))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--library: Field required"),
        (["--library", "dictionaries"], "--library: Input should be 'sparsify' or 'dictionary_learning'"),
        (["--library", "sparsify", "--rounds", "0"], "--rounds"),
        (["--library", "sparsify", "--threads", "0"], "--threads"),
        *([] if INSTALLED else [(["--library", "sparsify"], "pip install 'eai-sparsify")]),
    ],
)
def test_what_cannot_be_measured_is_one_line_and_writes_nothing(tmp_path, arguments, message):
    fails(CliRunner().invoke(app, ["experiment", "adapter", "--out", str(tmp_path / "out"), *arguments]), 2, message)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["speed", "ensemble", "store", "adapter"])
def test_the_old_command_says_the_new_one(name):
    done = CliRunner().invoke(app, ["bench", name])
    assert done.exit_code == 2
    assert f"is now `faithfulness experiment {name}`" in done.stderr
