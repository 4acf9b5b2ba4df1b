"""What a run of an adapter's tests shows to work with its library, written for the table of compatibility."""

from collections import defaultdict
from pathlib import Path

import pytest

from faithfulness_plugin.benchmarks.compatibility import DISTRIBUTIONS, CompatibilityResult
from faithfulness_plugin.results.schema import Environment, write_text

RESULTS = Path(__file__).resolve().parents[1] / "benchmarks" / "results" / "compatibility"


class Recorder:
    """Collects outcomes by what tests say to show (`pytest.mark.works`). Nothing may be skipped, and where anything
    fails nothing is written; nor after a part of them."""

    def __init__(self, library: str) -> None:
        self.library = library
        self.shown: dict[str, list[str]] = {}
        self.outcomes: dict[str, list[str]] = defaultdict(list)
        self.n_tests = 0
        self.partial = False

    def pytest_deselected(self, items: list[pytest.Item]) -> None:
        self.partial = True

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        self.partial |= any("::" in arg for arg in items[0].config.args) if items else True
        self.shown = {item.nodeid: [mark.args[0] for mark in item.iter_markers("works")] for item in items}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or report.outcome != "passed":
            self.n_tests += report.when == "call"
            for what in self.shown.get(report.nodeid, []):
                self.outcomes[what].append(report.outcome)
            if report.skipped:
                self.outcomes["nothing is skipped"].append("skipped")

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        every = [outcome for outcomes in self.outcomes.values() for outcome in outcomes]
        if "skipped" in every or not every:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        if session.exitstatus == 0 and not self.partial:
            result = CompatibilityResult(
                complete=True,
                environment=Environment.here("cpu", packages=DISTRIBUTIONS[self.library]),
                library=self.library,
                works=list(self.outcomes),
                n_tests=self.n_tests,
            )
            write_text(RESULTS / f"{self.library}.json", result.model_dump_json(indent=1) + "\n")
