import numpy as np
from real_layers import arm_record, result_of

from faithfulness_plugin.benchmarks.real_layers.arms import NONE, SKIP, Arm
from faithfulness_plugin.benchmarks.real_layers.drawings import figures
from faithfulness_plugin.benchmarks.real_layers.kinds import Kind
from faithfulness_plugin.benchmarks.real_layers.report import page
from faithfulness_plugin.benchmarks.real_layers.schema import RealLayersResult

N = 4


def at(*sparsities: int, arms: tuple[Arm, ...] = (NONE, SKIP)) -> RealLayersResult:
    """Runs at these numbers of active features; the pair error is 8 / L0, half of it with a skip connection."""
    trained = [
        arm_record(arm, kind=Kind(sparsity=k), l0=float(k), error=[1 / k] * N, jacobian=[8 / k / (1 + arm.skip)] * N)
        for arm in arms
        for k in sparsities
    ]
    kinds = [Kind(sparsity=k) for k in sparsities]
    return result_of(trained, kinds=kinds[:1], line=kinds[1:], line_arms=list(arms))


def test_curves_go_over_l0_beside_both_floors():
    result = at(32, 16, 64)
    ax = figures(result)["pareto.png"].axes[0]
    drawn = {tuple(np.asarray(line.get_ydata(), float).round(6)) for line in ax.lines}
    # by L0: no term, skip alone, and the floors without and with a skip connection
    assert drawn >= {(0.5, 0.25, 0.125), (0.25, 0.125, 0.0625), (0.2, 0.2, 0.2), (0.1, 0.1, 0.1)}
    assert "pareto.png" in page(result)


def test_two_sparsities_are_no_curve():
    assert "pareto.png" not in figures(at(32, 16))
    assert "pareto.png" not in page(at(32, 16))
