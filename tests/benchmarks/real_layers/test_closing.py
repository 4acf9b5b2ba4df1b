from real_layers import arm_record, result_of

from faithfulness_plugin.benchmarks.real_layers.arms import SKIP, Arm
from faithfulness_plugin.benchmarks.real_layers.closing import closing, tries
from faithfulness_plugin.benchmarks.real_layers.schema import RealLayersResult
from faithfulness_plugin.benchmarks.real_layers.variation import Variation

N = 4
RECIPE = Arm(skip=True, term="secant", probe="pair", coefficient=0.3)


def result(*errors: float) -> RealLayersResult:
    """Variations with these pair errors, of an arm with .5."""
    arms = [RECIPE.model_copy(update={"vary": Variation(n_probes=2 + i)}) for i in range(len(errors))]
    trained = [arm_record(SKIP, jacobian=[0.7] * N), arm_record(RECIPE, jacobian=[0.5] * N, error=[0.4] * N)]
    trained += [arm_record(a, jacobian=[e] * N, error=[0.3] * N) for a, e in zip(arms, errors, strict=True)]
    return result_of(trained)


def test_a_try_is_compared_with_the_same_arm_without_it():
    first, second = tries(result(0.4, 0.495))
    assert (first.brings, second.brings) == (True, False)
    assert abs(first.pair.mean + 0.2) < 1e-6
    assert abs(first.fvu.mean + 0.25) < 1e-6
    told = closing(result(0.4, 0.495))
    assert "At least 2% less pair error: skip, secant pair 0.3, 2 probes (-20.0%)." in told
    assert "The last 3" not in told


def test_it_says_where_the_last_tries_bring_little():
    told = closing(result(0.495, 0.5, 0.6))
    assert "At least 2% less pair error: none. The last 3 tries bring less than that each." in told


def test_without_variations_there_is_nothing_to_say():
    assert closing(result()) == ""


def test_gates_with_a_gradient_and_first_dictionaries_are_tries_as_well():
    jvp = Arm(skip=True, term="jvp", probe="pair", coefficient=0.2)
    others = [jvp.model_copy(update=of) for of in ({"gate_bandwidth": 1.0}, {"control": "layer init"})]
    trained = [arm_record(SKIP), arm_record(jvp), *map(arm_record, others)]
    assert [of.arm for of in tries(result_of(trained))] == others
