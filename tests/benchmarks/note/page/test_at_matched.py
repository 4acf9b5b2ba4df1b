from types import SimpleNamespace
from typing import Any

import pytest

from faithfulness_plugin.benchmarks.note.page.at_matched import at_matched, passage
from faithfulness_plugin.benchmarks.note.scan.report import METRICS


def run(l0: float, fvu: float, m: float = 0.0) -> Any:
    numbers = {"effective_l0": l0, "fvu": fvu, "m_fraction": m, "jacobian_error": fvu, "recovered": 3}
    return SimpleNamespace(metrics=SimpleNamespace(**numbers))


@pytest.fixture(autouse=True)
def _stand_ins(as_installed):
    """Runs here are stand-ins, which the type checks would refuse."""


def test_between_two_runs_it_is_linear_in_the_metric_or_its_logarithm():
    curve = [run(2.0, 0.01, 0.0), run(1.0, 0.04, 0.8)]
    by = METRICS["effective L0"]
    assert passage(curve, METRICS["m / max"], 1.75, by) == pytest.approx(0.2)
    assert passage(curve, METRICS["FVU"], 1.5, by, log=True) == pytest.approx(0.02)
    assert passage(curve, METRICS["FVU"], 2.0, by, log=True) == pytest.approx(0.01)
    assert passage(curve, METRICS["FVU"], 2.1, by) is None
    assert passage(curve, METRICS["FVU"], 0.9, by) is None


def test_of_several_passages_the_one_with_the_lowest_fvu_counts():
    curve = [run(2.0, 0.001, 0.1), run(1.0, 0.01, 0.1), run(2.0, 0.1, 0.5), run(1.0, 0.2, 0.9)]
    assert passage(curve, METRICS["m / max"], 1.5, METRICS["effective L0"]) == pytest.approx(0.1)


def test_over_seeds_and_none_where_fewer_than_two_pass():
    def trained(seed: int, penalty: float, l0: float, fvu: float) -> Any:
        return SimpleNamespace(**vars(run(l0, fvu)), seed=seed, arm="a", values={"sparsity_coefficient": penalty})

    cells = ((2.0, 1.0, 0.4), (1.0, 2.0, 0.1))
    of = [trained(seed, penalty, l0, fvu * (1 + seed)) for seed in (0, 1) for penalty, l0, fvu in cells]
    result: Any = SimpleNamespace(of=lambda arm: of)
    geometric = at_matched(result, "a", METRICS["FVU"], 1.5, log=True)
    assert geometric is not None
    assert geometric.mean == pytest.approx((0.2 * 0.4) ** 0.5)
    assert geometric.low is not None
    assert geometric.high is not None
    assert geometric.low * geometric.high == pytest.approx(0.2 * 0.4)
    result.of = lambda arm: of[:2]
    assert at_matched(result, "a", METRICS["FVU"], 1.5) is None
