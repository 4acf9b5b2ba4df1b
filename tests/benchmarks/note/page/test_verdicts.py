"""Every verdict is changed by a result in which its sentence is not true."""

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
from jinja2 import UndefinedError

from faithfulness_plugin.benchmarks.note.page.page import SECTIONS, section
from faithfulness_plugin.benchmarks.note.page.section import Section
from faithfulness_plugin.benchmarks.note.scan.schema import Trained
from faithfulness_plugin.benchmarks.readme import TOY
from faithfulness_plugin.results.schema import read_result

Where = Callable[[Trained], bool]


@cache
def committed(name: str) -> Any:
    return read_result(TOY / name / "result.json", SECTIONS[name])


def always(_: Trained) -> bool:
    return True


def at(arm: str | None = None, seed: int | None = None, **values: float) -> Where:
    def where(t: Trained) -> bool:
        same = all(t.values[name] == value for name, value in values.items())
        return same and arm in (None, t.arm) and seed in (None, t.seed)

    return where


def with_metrics(name: str, where: Where, **metrics: Any) -> Any:
    """The committed result with other metrics of some transcoders; a callable is given the transcoder."""

    def changed(t: Trained) -> Trained:
        update = {key: value(t) if callable(value) else value for key, value in metrics.items()}
        return t.model_copy(update={"metrics": t.metrics.model_copy(update=update)})

    result = committed(name)
    return result.model_copy(update={"trained": [changed(t) if where(t) else t for t in result.trained]})


def with_extra(result: Any, where: Where, extra: str, **fields: Any) -> Any:
    """A result with other numbers measured beside the metrics of some transcoders."""

    def changed(t: Trained) -> Trained:
        measured = getattr(t.extras, extra).model_copy(update=fields)
        return t.model_copy(update={"extras": t.extras.model_copy(update={extra: measured})})

    return result.model_copy(update={"trained": [changed(t) if where(t) else t for t in result.trained]})


def with_history(name: str, arm: str, m_fraction: float) -> Any:
    """The committed result, m of the arm's first seed being that large half-way through training."""
    result = committed(name)
    (first, *_) = (t for t in result.trained if t.arm == arm)
    history = [dict(record) for record in first.history]
    history[len(history) // 2]["m_fraction"] = m_fraction
    changed = first.model_copy(update={"history": history})
    return result.model_copy(update={"trained": [changed if t is first else t for t in result.trained]})


def with_runs(**fields: float) -> Any:
    """The committed audit with the same numbers in every run."""
    result = committed("audit")
    return result.model_copy(update={"runs": [run.model_copy(update=fields) for run in result.runs]})


def repeated_often(t: Trained) -> float:
    return float(t.values["repeat_frac"] >= 0.02)  # pyright: ignore


def large_product(t: Trained) -> float:
    return float(t.values["repeat_frac"] * t.values["sparsity_coefficient"] > 0.0042)  # pyright: ignore


def is_control(t: Trained) -> bool:
    return "augmentation" in t.arm or t.arm == "no term"


def helped() -> Any:
    """The penalty halves masking of the arms that show it, at their FVU."""
    result = committed("gradient_masking")
    without = {t.arm: t.metrics.fvu for t in result.of(gradient_masking_coefficient=0.0)}
    small = at(gradient_masking_coefficient=0.01)
    result = with_metrics("gradient_masking", small, fvu=lambda t: without[t.arm])
    return with_extra(result, small, "masking", barely_active=0.001)


FIRST_POINT = {"error_one_changed": [1.0] * 11}
CASES: list[tuple[str, Callable[[], Any], str]] = [
    ("emergence", lambda: committed("emergence"), "Holds to first order, with iso-lines a little bent."),
    ("emergence", lambda: with_metrics("emergence", always, m_fraction=large_product), "Holds to first order."),
    ("emergence", lambda: with_metrics("emergence", always, m_fraction=repeated_often), "Does not hold as stated."),
    ("circuits", lambda: committed("circuits"), "Holds."),
    *(
        (
            "circuits",
            lambda arm=arm, weight=weight: with_extra(
                committed("circuits"), at(arm, seed=3), "projection", weights=[[0.0], [weight]]
            ),
            "Does not hold.",
        )
        for arm, weight in (("repetition", 0.4), ("jacobian", 0.6), ("baseline", 0.6))
    ),
    ("coefficient", lambda: committed("coefficient"), "Holds."),
    (
        "coefficient",
        lambda: with_metrics("coefficient", at("at the kink", seed=2, jacobian_coefficient=100.0), m_fraction=0.2),
        "Does not hold for every estimator.",
    ),
    ("coefficient_needed", lambda: committed("coefficient_needed"), "Holds."),
    (
        "coefficient_needed",
        lambda: with_metrics("coefficient_needed", at(n_ones=5), m_fraction=0.0),
        "Does not hold at every penalty.",
    ),
    ("dynamics", lambda: committed("dynamics"), "Holds."),
    ("dynamics", lambda: with_history("dynamics", "Jacobian", 0.6), "Does not hold in every seed."),
    ("dynamics", lambda: with_history("dynamics", "repetition", 0.4), "Does not hold in every seed."),
    ("near_point", lambda: committed("near_point"), "Holds. On p + eps u, eps 1, noise augmentation is ahead of"),
    (
        "near_point",
        lambda: with_extra(committed("near_point"), at("secant"), "near_point", **FIRST_POINT),
        "Does not hold. On p + eps u",
    ),
    (
        "near_point",
        lambda: with_extra(committed("near_point"), at("repetition"), "near_point", error_one_changed=[0.0] * 11),
        "Does not hold. On p + eps u",
    ),
    (
        "near_point",
        lambda: with_extra(committed("near_point"), at("noise augmentation"), "near_point", error=[1.0] * 9),
        "Holds.",
    ),
    ("gradient_masking", lambda: committed("gradient_masking"), "It happens with secant and noise augmentation; the"),
    (
        "gradient_masking",
        lambda: with_extra(committed("gradient_masking"), always, "masking", barely_active=0.1),
        "Does not happen here.",
    ),
    ("gradient_masking", helped, "Holds."),
    ("superposition", lambda: committed("superposition"), "Fails at some penalty for: no term; Jacobian; Jacobian, j"),
    (
        "superposition",
        lambda: with_extra(committed("superposition"), always, "spectrum", top_error=[0.0] * 4),
        "Holds.",
    ),
    ("pareto", lambda: committed("pareto"), "Holds in part. At effective L0 1.65 a control does as well on m / max"),
    (
        "pareto",
        lambda: with_metrics("pareto", is_control, m_fraction=1.0, jacobian_error=10.0, recovered=0),
        "Holds at every place compared.",
    ),
    ("memorizing_layer", lambda: committed("memorizing_layer"), "Holds for secant alone; not for Jacobian at 0.1 (4"),
    ("memorizing_layer", lambda: with_metrics("memorizing_layer", always, recovered=33), "Holds."),
    (
        "memorizing_layer",
        lambda: with_metrics("memorizing_layer", at(seed=0), recovered=32),
        "Does not hold: Jacobian at 0.1",
    ),
    ("shuffled_layer", lambda: committed("shuffled_layer"), "Holds. But of the layer's own circuits Jacobian recovers"),
    (
        "shuffled_layer",
        lambda: with_extra(committed("shuffled_layer"), at("secant", seed=4), "abs_score", recovered=5),
        "Does not hold. But of",
    ),
    (
        "shuffled_layer",
        lambda: with_extra(committed("shuffled_layer"), at("secant", seed=4), "abs_score", jacobian_error=0.9),
        "Does not hold. But of",
    ),
    ("shuffled_layer", lambda: with_metrics("shuffled_layer", at("Jacobian"), recovered=30), "Holds."),
    ("audit", lambda: committed("audit"), "All published values lie inside our intervals. Columns that do differ: sp"),
    (
        "audit",
        lambda: with_runs(validation_loss=1.0, m=0.0),
        "Outside our intervals: validation loss of baseline, validation loss of repetition and validation loss of inert"
        "; the other 6 published values lie inside. Columns that do differ: sparsity from",
    ),
    (
        "audit",
        lambda: with_runs(validation_loss=0.0237, m=0.0, sparsity=0.4),
        "Outside our intervals: validation loss of baseline, sparsity of baseline, ",
    ),
]


@pytest.mark.parametrize(("name", "result", "verdict"), CASES)
def test_a_verdict_is_what_its_condition_says(name, result, verdict):
    text = section(name, result()).text("verdict")
    assert text.startswith(verdict)
    if verdict.endswith("."):
        assert text == verdict


def test_columns_that_are_equal_are_said_not_to_differ():
    text = section("audit", with_runs(validation_loss=0.0237, m=0.0, sparsity=0.4)).text("verdict")
    assert text.endswith("No two neighbouring columns differ.")


def test_every_verdict_has_a_case_in_which_it_is_another():
    for name in SECTIONS:
        assert len({verdict for case, _, verdict in CASES if case == name}) > 1


def test_a_sentence_about_what_was_not_measured_is_refused():
    with pytest.raises(UndefinedError, match="'holds' is undefined"):
        Section("circuits", {}, "").text("verdict")
