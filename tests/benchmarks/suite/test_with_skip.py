"""Matching together with a skip connection: the comparison against a slow twin, and each sentence both ways."""

import math
import random
import re
from collections.abc import Callable, Sequence
from itertools import pairwise

import pytest
import small_suite
from scipy import stats
from small_suite import scores

from faithfulness_plugin.benchmarks.methods.registry import expand_methods
from faithfulness_plugin.benchmarks.readme import FAITHFULNESS
from faithfulness_plugin.benchmarks.suite.leaderboard import write_leaderboard
from faithfulness_plugin.benchmarks.suite.schema import Scores, SuiteResult
from faithfulness_plugin.benchmarks.suite.with_skip import TOGETHER, methods_of_arms, places
from faithfulness_plugin.benchmarks.suite.with_skip_page import NOTHING, section, words
from faithfulness_plugin.results.schema import read_result

Made = Callable[[int, float], Scores]


def at(headline: float, spread: float = 0.0, *, l0: float = 3.0, **given: float) -> Made:
    """A method with that headline at the layer's L0 of 2, more by `spread` for each seed; or far from it, with l0 5."""
    return lambda seed, s: scores(l0 - 5 * s, headline + spread * small_suite.SEEDS.index(seed), **given)


def of_arms(*made: Made, architecture: str = "topk", term: str = "jvp") -> dict[str, Made]:
    """Methods: unmatched, skip alone, matched, and matched with skip."""
    return dict(zip(methods_of_arms(architecture, term).values(), made, strict=True))


def result(*made: Made, tasks: tuple[str, ...] = ("absolute_value",)) -> SuiteResult:
    return small_suite.result(of_arms(*made), tasks=tasks)


# ---------------------------------------------------------------------------------------------------- the slow twin


Sweeps = dict[tuple[str, str, int], list[Scores]]


def slow_sweeps(result: SuiteResult) -> Sweeps:
    """Each seed's trials with scores, by strength, as they stand in the file."""
    sweeps: Sweeps = {}
    for trial in sorted(result.trials, key=lambda t: t.strength):
        if trial.scores is not None:
            sweeps.setdefault((trial.task, trial.method, trial.seed), []).append(trial.scores)
    return sweeps


def slow_score(sweep: list[Scores], target: float, score: str) -> float | None:
    """One seed's score where its sweep passes the layer's L0."""
    found = []
    for a, b in pairwise(sweep):
        if (a.l0 < target) != (b.l0 < target):
            w = (target - a.l0) / (b.l0 - a.l0)
            log_fvu = (1 - w) * math.log(max(a.fvu, 1e-12)) + w * math.log(max(b.fvu, 1e-12))
            found.append((log_fvu, (1 - w) * getattr(a, score) + w * getattr(b, score)))
    if found:
        return min(found)[1]
    close = [s for s in sweep if abs(s.l0 - target) <= 0.05 * target]
    return getattr(min(close, key=lambda s: abs(s.l0 - target)), score) if close else None


def slow_place(
    sweeps: Sweeps, seeds: list[int], target: float, task: str, methods: dict[str, str], score: str
) -> tuple[str, float, float] | None:
    """The best other arm, and the paired difference's mean and half width."""
    sign = -1 if score == "jacobian_error" else 1
    by_arm: dict[str, dict[int, float]] = {}
    for arm, method in methods.items():
        for seed in seeds:
            value = slow_score(sweeps.get((task, method, seed), []), target, score)
            if value is not None:
                by_arm.setdefault(arm, {})[seed] = value
    reached = {arm: of for arm, of in by_arm.items() if 2 * len(of) >= len(seeds)}
    if TOGETHER not in reached or len(reached) == 1 or task == "shuffled_layer":
        return None
    rival = max((a for a in reached if a != TOGETHER), key=lambda a: sign * sum(reached[a].values()) / len(reached[a]))
    shared = [seed for seed in seeds if seed in reached[TOGETHER] and seed in reached[rival]]
    gains = [sign * (reached[TOGETHER][seed] - reached[rival][seed]) for seed in shared]
    if len(gains) < 2:
        return None
    mean = sum(gains) / len(gains)
    deviation = math.sqrt(sum((g - mean) ** 2 for g in gains) / (len(gains) - 1))
    return rival, mean, float(stats.t.ppf(0.975, len(gains) - 1)) * deviation / math.sqrt(len(gains))


def assert_as_slow(result: SuiteResult) -> None:
    sweeps = slow_sweeps(result)
    for score in ("headline", "jacobian_error"):
        found = places([result], score)
        assert found
        for place in found:
            methods = methods_of_arms(place.architecture, place.term)
            target = result.layer_l0[place.task]
            slow = slow_place(sweeps, result.spec.seeds, target, place.task, methods, score)
            if slow is None:
                assert place.gain is None
                assert place.verdict is None
                continue
            rival, mean, half = slow
            assert place.rival == rival
            assert place.gain is not None
            assert (place.gain.mean, place.gain.low, place.gain.high) == pytest.approx(
                (mean, mean - half, mean + half), abs=1e-9
            )
            decided = abs(mean) >= 0.01 and abs(mean) > half
            assert place.verdict == (("best" if mean > 0 else "worse") if decided else "neither")


@pytest.mark.parametrize("number", range(4))
def test_places_are_those_of_a_slow_twin_on_random_sweeps(number):
    draw = random.Random(number)

    def one(seed: int, strength: float) -> Scores:
        given = {"fvu": draw.random(), "jacobian_error": draw.random()}
        return scores(draw.uniform(1.0, 3.2), draw.random(), **given)

    methods = {**of_arms(one, one, one, one), **of_arms(one, one, one, one, term="secant")}
    assert_as_slow(small_suite.result(methods, tasks=("absolute_value", "rotated", "shuffled_layer")))


def test_places_are_those_of_a_slow_twin_in_the_committed_result():
    assert_as_slow(read_result(FAITHFULNESS / "standard" / "result.json", SuiteResult))


# ------------------------------------------------------------------------------------------------------- verdicts


@pytest.mark.parametrize(
    ("made", "rival", "verdict"),
    [
        ((at(0.1), at(0.6), at(0.5), at(0.8)), "skip alone", "best"),
        ((at(0.1), at(0.5), at(0.6), at(0.3)), "matched", "worse"),
        ((at(0.9), at(0.5), at(0.6), at(0.3)), "unmatched", "worse"),
        ((at(0.1), at(0.6), at(0.5), at(0.605)), "skip alone", "neither"),  # ahead, by less than the margin
        ((at(0.1), at(0.6), at(0.5), at(0.595)), "skip alone", "neither"),
        ((at(0.1), at(0.6), at(0.5), at(0.5, 0.3)), "skip alone", "neither"),  # ahead on average only
        ((at(0.1, 0.2), at(0.6, 0.2), at(0.5), at(0.7, 0.2)), "skip alone", "best"),  # what seeds share falls out
        ((at(0.1), at(0.9, l0=9.0), at(0.5), at(0.8)), "matched", "best"),  # an arm out of reach is not compared
        ((at(0.1), at(0.6), at(0.5), at(0.8, l0=9.0)), None, None),
        ((at(0.1, l0=9.0), at(0.6, l0=9.0), at(0.5, l0=9.0), at(0.8)), None, None),
    ],
)
def test_a_place_is_best_or_worse_by_the_whole_interval_and_by_the_margin(made, rival, verdict):
    (place,) = places([result(*made)], "headline")
    assert (place.rival, place.verdict) == (rival, verdict)


def test_the_less_of_an_error_the_better():
    errors = [at(0.5, jacobian_error=error) for error in (0.9, 0.4, 0.3, 0.1)]
    (place,) = places([result(*errors)], "jacobian_error")
    assert (place.rival, place.verdict) == ("matched", "best")
    assert place.gain is not None
    assert place.gain.mean == pytest.approx(0.2)
    (place,) = places([result(*errors[::-1])], "jacobian_error")
    assert (place.rival, place.verdict) == ("unmatched", "worse")


# ------------------------------------------------------------------------------------------------------- the words

BEST = (at(0.1), at(0.6), at(0.5), at(0.8))
WORSE = (at(0.1), at(0.6), at(0.5), at(0.3))
EVEN = (at(0.1), at(0.6), at(0.5), at(0.6))
TASKS = ("absolute_value", "rotated", "shuffled_layer")


def said(jvp: Sequence[Made], secant: Sequence[Made]) -> str:
    methods = {**of_arms(*jvp), **of_arms(*secant, term="secant")}
    return words([small_suite.result(methods, tasks=TASKS)])


def by_headline(text: str) -> dict[str, str]:
    return dict(re.findall(r"^- (.+?): (.+)\.$", text[: text.index("By the Jacobian error")], flags=re.MULTILINE))


def test_lists_follow_from_the_verdicts_and_leave_out_the_control():
    assert by_headline(said(BEST, WORSE)) == {
        "More often best than worse": "topk with jvp (best at 2, worse at 0 of 2)",
        "More often worse than best": "topk with secant (best at 0, worse at 2 of 2)",
        "As often the one as the other": "none",
    }
    assert by_headline(said(EVEN, BEST)) == {
        "More often best than worse": "topk with secant (best at 2, worse at 0 of 2)",
        "More often worse than best": "none",
        "As often the one as the other": "topk with jvp (best at 0, worse at 0 of 2)",
    }


def test_an_architecture_is_warned_of_where_every_term_is_more_often_worse():
    text = said(WORSE, WORSE)
    assert "**On these layers use one of the two with topk, and not both:** matched by jvp or secant, both" in text
    assert "the highest headline has topk-skip-none at 2 of 2 tasks." in text
    for other in (BEST, EVEN):
        for text in (said(WORSE, other), said(other, WORSE)):
            assert "and not both" not in text
            assert "no architecture is more often worse than best with every term" in text


def test_the_highest_headline_may_be_that_of_both():
    text = said((at(0.1), at(0.6), at(0.9), at(0.7)), (at(0.1), at(0.6), at(0.95), at(0.7)))
    assert "the highest headline has topk-secant at 2 of 2 tasks." in text


def test_the_jacobian_error_has_lists_of_its_own():
    made = [at(h, jacobian_error=e) for h, e in ((0.1, 0.9), (0.7, 0.4), (0.5, 0.5), (0.3, 0.2))]
    text = words([result(*made)])
    assert by_headline(text)["More often worse than best"] == "topk with jvp (best at 0, worse at 1 of 1)"
    by_error = text[text.index("By the Jacobian error") :]
    assert "- More often best than worse: topk with jvp (best at 1, worse at 0 of 1)." in by_error


def test_what_was_not_run_with_a_skip_connection_is_named_until_it_is_there():
    data = {"topk-data": at(0.4)}
    first = small_suite.result({**of_arms(*WORSE), **data})
    text = words([first])
    command = re.search(r'`faithfulness bench run --method "(.+?)" --seeds 3 --n-steps 100 --out out/skip-data`', text)
    assert command is not None
    assert expand_methods([command[1]])[0] == "relu_l1-skip-data"
    assert "the same took 0.3 minutes of one core" in text  # 18 trials of a second
    assert "Not run: secant" not in text  # nor was it run without one
    second = small_suite.result({"topk-skip-data": at(0.9)})
    both = section([first, second])
    assert "Not run" not in both
    assert "| topk | data | rotated | 0.100 (0.100 to 0.100) | 0.600 (" in both
    assert "best: 0.300 (0.300 to 0.300) (skip alone) |" in both


# ------------------------------------------------------------------------------------------------------- the table


def test_the_table_has_a_row_for_every_architecture_term_and_task():
    made = (at(0.1), at(0.6), at(0.5, l0=9.0), at(0.3))
    text = section([small_suite.result(of_arms(*made), tasks=("absolute_value", "shuffled_layer"))])
    cells = "0.100 (0.100 to 0.100) | 0.600 (0.600 to 0.600) | not reached (0.500 at L0 7.00) | 0.300 (0.300 to 0.300)"
    assert f"| topk | jvp | absolute_value | {cells} | worse: -0.300 (-0.300 to -0.300) (skip alone) |" in text
    assert f"| topk | jvp | shuffled_layer | {cells} | — |" in text
    assert "one in twenty of these 1 intervals" in text


def test_results_without_such_a_method_say_so():
    methods = of_arms(*BEST)
    methods.popitem()
    assert section([small_suite.result(methods)]) == words([small_suite.result(methods)]) == NOTHING


def test_the_leaderboard_has_the_section(tmp_path):
    of = result(*WORSE)
    write_leaderboard([of], tmp_path)
    page = (tmp_path / "leaderboard.md").read_text()
    assert section([of]) in page[page.index("## With a skip connection") : page.index("## Which control")]
