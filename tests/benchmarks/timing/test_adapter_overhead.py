import pytest

from faithfulness_plugin.benchmarks.readme import RESULTS
from faithfulness_plugin.benchmarks.timing.adapter_overhead.report import table
from faithfulness_plugin.benchmarks.timing.adapter_overhead.schema import OverheadConfig, OverheadResult, Timings
from faithfulness_plugin.results.schema import Environment, read_result


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
