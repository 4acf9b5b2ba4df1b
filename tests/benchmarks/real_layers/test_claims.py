"""Each sentence of the verdict, where its condition holds and where it does not."""

import re
from typing import Any

import pytest
from real_layers import arm_record, result_of

from faithfulness_plugin.benchmarks.real_layers.arms import NONE, SKIP, Arm
from faithfulness_plugin.benchmarks.real_layers.claims import AIM, claims, verdicts
from faithfulness_plugin.benchmarks.real_layers.kinds import Kind
from faithfulness_plugin.benchmarks.real_layers.overview import overview
from faithfulness_plugin.benchmarks.real_layers.report import page
from faithfulness_plugin.benchmarks.real_layers.schema import RealLayersResult
from faithfulness_plugin.measure.schema import SplicedRecord

N = 8
RECIPE = Arm(skip=True, term="jvp", probe="pair", coefficient=0.2)
AUGMENTED = Arm(skip=True, term="augmentation", probe="difference", coefficient=0.5)
CONSTANT, EXTRA = (Arm(skip=True, control=control) for control in ("constant map", "extra compute"))
PERMUTED = [arm.model_copy(update={"layer": "permuted"}) for arm in (SKIP, RECIPE)]
PAIR = {
    NONE: 0.9,
    SKIP: 0.7,
    RECIPE: 0.5,
    AUGMENTED: 0.65,
    CONSTANT: 0.7,
    EXTRA: 0.65,
    PERMUTED[0]: 0.7,
    PERMUTED[1]: 0.68,
}


def result(
    changed: dict[Arm, float] | None = None, *, fvu: float = 0.5, ce: float = 0.1, larger: float = 0.6, seeds: int = 2
) -> RealLayersResult:
    """`changed`: pair errors; `fvu` and `ce`: the recipe's; `larger`: the pair error of skip alone with k 64."""
    trained, scales = [], [0.9 + 0.02 * i for i in range(N)]  # prompts that are hard for some more than for others
    for seed in range(seeds):
        for arm, error in (PAIR | (changed or {})).items():
            if arm.control == "constant map" and seed:
                continue
            own: dict[str, Any] = {"error": [fvu] * N, "ce": ce} if arm == RECIPE else {"error": [0.5] * N}
            scaled = [error * of * (1 + 0.01 * seed) for of in scales]
            trained.append(arm_record(arm, jacobian=scaled, seed=seed, **own))
        more: dict[str, Any] = {"kind": Kind(sparsity=64), "l0": 64.0, "seed": seed}
        trained.append(arm_record(SKIP, jacobian=[larger * of for of in scales], error=[0.4] * N, **more))
    return result_of(trained, line=[Kind(sparsity=64)], seeds=seeds)


def held(of: RealLayersResult) -> dict[str, bool | None]:
    found = claims(of)
    assert {claim.arm for claim in found} == {RECIPE}
    return {re.split(r" \(|: ", claim.text)[0]: claim.holds for claim in found}


SENTENCES = [
    f"its pair error is at most {AIM:.2f}",
    "less pair error than skip alone",
    "less pair error than the constant map",
    "less pair error than skip, interpolation augmentation 0.5",
    "less pair error than skip alone with 1.75 times the steps; a step of this arm costs 1.00",
    "an FVU no worse than skip alone with 1.75 times the steps",
    "less pair error than skip alone with topk k 64",
    "the spliced model loses no more than with skip alone",
    "its predictions are no further from the model's",
    "gains more over skip alone",
]


def test_all_of_them_hold():
    found = held(result())
    assert list(found) == SENTENCES
    assert all(found.values())


@pytest.mark.parametrize(
    ("changed", "more", "lost"),
    [
        ({RECIPE: 0.63}, {"larger": 0.7}, [0]),
        ({SKIP: 0.5, EXTRA: 0.6}, {}, [1, 9]),
        ({}, {"fvu": 0.501}, [1, 5]),
        ({CONSTANT: 0.5}, {}, [2]),
        ({AUGMENTED: 0.5}, {}, [3]),
        ({EXTRA: 0.49}, {}, [4]),
        ({}, {"larger": 0.45}, [6]),
        ({}, {"ce": 0.11}, [7]),
        ({PERMUTED[1]: 0.4}, {}, [9]),
    ],
)
def test_a_sentence_without_its_condition_does_not_hold(changed, more, lost):
    found = held(result(changed, **more))
    assert [name for name, holds in found.items() if not holds] == [SENTENCES[i] for i in lost]


def test_what_was_not_run_is_not_claimed():
    alone = result_of([arm_record(arm, jacobian=[PAIR[arm]] * N) for arm in (SKIP, RECIPE)])
    assert list(held(alone)) == [SENTENCES[i] for i in (0, 1, 7, 8)]
    assert claims(result_of([arm_record(arm) for arm in (NONE, SKIP)])) == []


def test_what_the_spliced_model_loses_is_left_open_where_the_interval_holds_0():
    """Relative to skip alone, which loses nothing, a change would be any number."""

    def spliced(worse: list[float]) -> SplicedRecord:
        ce = [30 + of for of in worse]
        return SplicedRecord(tokens=10, ce=ce, ce_clean=[30.0] * N, ce_zero=[40.0] * N, kl=[1 + of for of in worse])

    trained = [
        arm_record(SKIP, jacobian=[0.7] * N, spliced=spliced([0.0] * N)),
        arm_record(RECIPE, jacobian=[0.5] * N, spliced=spliced([0.2, -0.1] * (N // 2))),
    ]
    found = {claim.text: claim for claim in claims(result_of(trained))}
    text = next(text for text in found if "ΔCE" in text)
    assert text.startswith("the spliced model loses no more than with skip alone: ΔCE 0.0050, 0.0000 (+0.0050 [-0.0")
    assert found[text].holds is None
    assert found[text].line.startswith("undecided: ")


def test_other_seeds_of_its_own_sparsity_are_no_larger_k():
    """Dead features lower an arm's L0 below that of the others of its k."""
    trained = [arm_record(SKIP, jacobian=[0.7] * N, l0=32.0), arm_record(RECIPE, jacobian=[0.5] * N, l0=31.5)]
    assert not any("skip alone with" in claim.text for claim in claims(result_of(trained)))


def test_a_failure_is_said_as_loudly():
    text = verdicts(result({CONSTANT: 0.4}))
    assert "**Block 0, topk k 32: skip, jvp pair 0.2** (Jacobian error along pairs 0.48" in text
    assert "- **does not hold**: less pair error than the constant map (+2" in text
    assert "- holds: less pair error than skip alone (-2" in text
    assert "intervals over 2 seeds and held-out prompts." in text
    assert "One seed" in verdicts(result(seeds=1))


def test_page_and_overview_have_them():
    of = result()
    assert verdicts(of) in page(of)
    assert "- Block 0, topk k 32, skip, jvp pair 0.2: 10 of 10 claims hold." in overview(of)


def test_of_a_sweep_the_winner_alone_is_judged():
    swept = [Arm(skip=True, term="jvp", probe="pair", coefficient=c) for c in (0.1, 0.2, 0.5)]
    errors = {0.1: (0.4, 0.6), 0.2: (0.4, 0.5), 0.5: (0.9, 0.3)}  # the last one raises FVU
    trained = [arm_record(SKIP, error=[0.5] * N, jacobian=[0.7] * N)]
    for arm in swept:
        fvu, pair = errors[arm.coefficient]
        trained.append(arm_record(arm, error=[fvu] * N, jacobian=[pair] * N))
    assert {claim.arm for claim in claims(result_of(trained))} == {swept[1]}
