from real_layers import arm_record, result_of

from faithfulness_plugin.benchmarks.real_layers.arms import SKIP, Arm
from faithfulness_plugin.benchmarks.real_layers.schema import RealLayersResult
from faithfulness_plugin.benchmarks.real_layers.sweep import sweep, winners
from faithfulness_plugin.benchmarks.real_layers.tables import tables

N = 4


def jvp(coefficient: float) -> Arm:
    return Arm(skip=True, term="jvp", probe="pair", coefficient=coefficient)


def swept(**of: tuple[float, float]) -> RealLayersResult:
    """FVU and pair error by coefficient, beside a skip connection alone of .5 and .9."""
    trained = [arm_record(SKIP, error=[0.5] * N, jacobian=[0.9] * N)]
    for name, (fvu, error) in of.items():
        arm = jvp(float(name.removeprefix("at_").replace("_", ".")))
        trained.append(arm_record(arm, error=[fvu] * N, jacobian=[error] * N))
    return result_of(trained)


def test_the_winner_has_the_least_pair_error_at_an_fvu_no_worse_than_skip_alone():
    result = swept(at_0_1=(0.48, 0.8), at_0_2=(0.5, 0.7), at_0_5=(0.501, 0.6))
    (found,) = winners(result)
    assert found.winner == jvp(0.2)
    assert found.name == "skip, jvp pair"
    assert "| 0, topk k 32 | skip, jvp pair | 0.1, 0.2, 0.5 | 0.2 |" in tables(result)


def test_a_sweep_without_a_winner_is_named():
    result = swept(at_0_2=(0.51, 0.7), at_0_5=(0.6, 0.6))
    (found,) = winners(result)
    assert found.winner is None
    told = sweep(result)
    assert "| 0, topk k 32 | skip, jvp pair | 0.2, 0.5 | none |" in told
    assert (
        "A sweep without a winner, every coefficient raising FVU: skip, jvp pair (block 0, topk k 32; 0.2, 0.5)."
        in told
    )
    assert "A sweep without a winner" in tables(result)


def test_one_coefficient_is_no_sweep():
    assert winners(swept(at_0_2=(0.5, 0.7))) == []
    assert sweep(swept(at_0_2=(0.5, 0.7))) == ""


def test_arms_without_a_skip_connection_are_held_against_no_term():
    arms = [Arm(term="jvp", probe="pair", coefficient=c) for c in (0.1, 0.2)]
    trained = [arm_record(Arm(), error=[0.7] * N)]
    trained += [arm_record(arm, error=[0.6] * N, jacobian=[0.5 + arm.coefficient] * N) for arm in arms]
    (found,) = winners(result_of(trained))
    assert found.winner == arms[0]
