import csv
import io

import pytest
import small_suite
from small_suite import scores

from faithfulness_plugin.benchmarks.suite.compare import comparison, difference, methods_of
from faithfulness_plugin.benchmarks.suite.schema import MethodSpec
from faithfulness_plugin.errors import UsageError

A = {"a": lambda seed, s: scores(3 - 5 * s, 0.5 + seed / 100)}
B = {"b": lambda seed, s: scores(3 - 5 * s, 0.25 + seed / 100)}


def test_differences_are_paired_so_that_what_seeds_share_falls_out():
    found = methods_of([small_suite.result({**A, **B})])
    of = difference(found, "rotated", "a", "b")
    assert of.n == 3
    assert of.scores["headline"].mean == pytest.approx(0.25)
    assert of.scores["headline"].low == pytest.approx(0.25)


def test_methods_of_two_results_are_compared_over_the_seeds_that_both_have():
    first, second = small_suite.result(A), small_suite.result(B, tasks=("rotated",), seeds=[23, 37, 41])
    found = methods_of([first, second])
    assert difference(found, "rotated", "a", "b").n == 2
    table = comparison([first, second], "b")
    assert [row[:3] for row in table.rows] == [["rotated", "a", "2"]]


def test_where_one_of_them_does_not_reach_the_layers_l0_there_is_no_difference():
    far = {"b": lambda seed, s: scores(5.0 + s, 0.1)}
    table = comparison([small_suite.result({**A, **far})], "b")
    assert table.rows[0][2:] == ["0", None, None, None]
    assert "—" in table.render("markdown")


def test_the_table_in_all_formats_says_the_same():
    table = comparison([small_suite.result({**A, **B})], "b", scores=("headline", "fvu"))
    record = next(csv.DictReader(io.StringIO(table.render("csv"))))
    assert float(record["headline mean"]) == pytest.approx(0.25)
    assert record["task"] == "absolute_value"
    latex = table.render("latex")
    for part in (r"\toprule", r"\bottomrule", r"absolute\_value", "0.250 (0.250 to 0.250)", r"95 \% interval"):
        assert part in latex
    assert "| absolute_value | a | 3 | 0.250 (0.250 to 0.250) |" in table.render("markdown")


def test_what_cannot_be_compared_is_refused_with_the_reason():
    of = small_suite.result({**A, **B})
    older = small_suite.result(B, suite_version=2)
    other_settings = small_suite.result(methods := {**A})
    changed = other_settings.model_copy(
        update={
            "spec": other_settings.spec.model_copy(
                update={"methods": [MethodSpec(name=name, strengths=[1.0], source="baseline") for name in methods]}
            )
        }
    )
    for match, results, names in (
        ("version 1 of the benchmark and one of version 2", [of, older], {}),
        ("no task in common", [of, small_suite.result(B, tasks=("two_hops",))], {}),
        ("fewer than two seeds in common", [of, small_suite.result(B, seeds=[37, 41])], {}),
        ("two results hold a method a, with different settings", [of, changed], {}),
        ("no method 'c'.*choose from a, b", [of], {"against": "c"}),
        ("no task 'rotate'.*did you mean rotated", [of], {"tasks": ["rotate"]}),
        ("no score 'head'", [of], {"scores": ["head"]}),
    ):
        with pytest.raises(UsageError, match=match):
            comparison(results, **{"against": "b", **names})
