import re
from pathlib import Path

import pytest

from faithfulness_plugin.benchmarks.compatibility import DISTRIBUTIONS, CompatibilityResult, table
from faithfulness_plugin.benchmarks.readme import RESULTS
from faithfulness_plugin.results.schema import read_result

REQUIREMENTS = Path(__file__).resolve().parents[2] / "adapters" / "requirements"


@pytest.mark.parametrize("library", DISTRIBUTIONS)
def test_what_is_said_to_work_was_tested_with_the_pinned_version(library):
    result = read_result(RESULTS / "compatibility" / f"{library}.json", CompatibilityResult)
    pins = dict(re.findall(r"^([\w-]+)==(\S+)$", (REQUIREMENTS / f"{library}.txt").read_text(), flags=re.MULTILINE))
    own = DISTRIBUTIONS[library][0]
    assert result.environment.packages[own] == pins[own]
    assert result.n_tests >= len(result.works) > 0
    (row,) = table([result]).splitlines()[2:]
    assert f"{own} {pins[own]}" in row
    assert all(what in row for what in result.works)
