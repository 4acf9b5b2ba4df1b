"""Where matching together with a skip connection is best and where it is worse, in a table and in words."""

from collections import Counter
from collections.abc import Mapping, Sequence

from faithfulness_plugin.benchmarks.suite.report import SHOWN
from faithfulness_plugin.benchmarks.suite.schema import SuiteResult
from faithfulness_plugin.benchmarks.suite.with_skip import (
    MARGIN,
    MATCHING,
    TOGETHER,
    VERDICTS,
    Place,
    methods_of_arms,
    places,
)
from faithfulness_plugin.results.intervals import RANGE
from faithfulness_plugin.results.markdown import interval_text
from faithfulness_plugin.results.tables import Table

SCORES = ("headline", "jacobian_error")
ARMS = ("unmatched", "skip alone", "matched", TOGETHER)
NOTHING = "These results have no method that is matched with a skip connection."
LISTS = {
    "best": "More often best than worse",
    "worse": "More often worse than best",
    "neither": "As often the one as the other",
}

Tally = Mapping[tuple[str, str], Counter[str]]
"""How often each verdict is given, by architecture and term."""


def section(results: Sequence[SuiteResult]) -> str:
    """Write the words and the table.

    Args:
        results: of one version of the benchmark.

    Returns:
        Markdown.

    Raises:
        UsageError: as `methods_of`.
    """
    found = places(results, "headline")
    return f"{words(results)}\n\n{_table(found).render('markdown').strip()}" if found else NOTHING


def words(results: Sequence[SuiteResult]) -> str:
    """Say where matched with skip is best, where it is worse, and what was not run.

    Args:
        results: of one version of the benchmark.

    Returns:
        Markdown, without the table.

    Raises:
        UsageError: as `methods_of`.
    """
    by_score = {score: places(results, score) for score in SCORES}
    if not by_score["headline"]:
        return NOTHING
    parts = [
        "At each task, matching together with a skip connection is compared with the best of the three others: "
        "unmatched, skip alone, and matched without a skip connection. It is called best or worse where the paired "
        f"95 % interval is on one side of 0 and the mean difference is {MARGIN:g} or more. With a skip connection "
        "|x| = 2 ReLU(x) - x needs half the features, so that at the layer's own L0 there are features to spare, with "
        "matching or without.",
        _warning(by_score["headline"]),
    ]
    for score, found in by_score.items():
        tally = _tally(found)
        lines = "\n".join(f"- {LISTS[verdict]}: {_listed(tally, verdict)}." for verdict in VERDICTS)
        parts.append(f"By the {SHOWN[score]}, of the tasks at which both together reach the layer's L0:\n\n{lines}")
    return "\n\n".join([*parts, *_not_run(results, by_score["headline"])])


def _table(found: Sequence[Place]) -> Table:
    rows = [
        [
            place.architecture,
            place.term,
            place.task,
            *(place.arms[arm].cell("headline") if arm in place.arms else None for arm in ARMS),
            _gain_cell(place),
        ]
        for place in found
    ]
    n = sum(place.gain is not None for place in found)
    caption = (
        f"Headline at the layer's own L0: mean and 95 % interval over seeds (Student's t), {RANGE}. Last column: the "
        "difference of the headline, paired by seed, to the best of the other three that reach the layer's L0, which "
        "is named; it is chosen by its mean, which favours it a little. Without any difference one in twenty of "
        f"these {n} intervals would leave out 0. A dash where nothing is compared: matched with "
        "skip, or all others, do not reach the layer's L0, or the layer is a control and has no mechanism to keep."
    )
    return Table(["architecture", "term", "task", *ARMS, f"{TOGETHER}, less the best other"], rows, caption)


def _gain_cell(place: Place) -> str | None:
    if place.gain is None:
        return None
    word = "" if place.verdict == "neither" else f"{place.verdict}: "
    return f"{word}{interval_text(place.gain, 3)} ({place.rival})"


def _tally(found: Sequence[Place]) -> Tally:
    tally: dict[tuple[str, str], Counter[str]] = {}
    for place in found:
        if place.verdict is not None:
            tally.setdefault((place.architecture, place.term), Counter())[place.verdict] += 1
    return tally


def _overall(counts: Counter[str]) -> str:
    lead = counts["best"] - counts["worse"]
    return "best" if lead > 0 else "worse" if lead < 0 else "neither"


def _listed(tally: Tally, verdict: str) -> str:
    return (
        ", ".join(
            f"{architecture} with {term} (best at {counts['best']}, worse at {counts['worse']} of {counts.total()})"
            for (architecture, term), counts in tally.items()
            if _overall(counts) == verdict
        )
        or "none"
    )


def _warning(found: Sequence[Place]) -> str:
    """Name the architectures that are more often worse than best with every term, and their best arms."""
    overall: dict[str, dict[str, str]] = {}
    for (architecture, term), counts in _tally(found).items():
        overall.setdefault(architecture, {})[term] = _overall(counts)
    lines = [
        f"**On these layers use one of the two with {architecture}, and not both:** matched by {' or '.join(terms)}, "
        "both together are by the headline more often worse than best. Of all its arms the highest headline has "
        f"{_highest(found, architecture)}."
        for architecture, terms in overall.items()
        if set(terms.values()) == {"worse"}
    ]
    return " ".join(lines) or "By the headline, no architecture is more often worse than best with every term."


def _highest(found: Sequence[Place], architecture: str) -> str:
    """Say at how many tasks each method has the architecture's highest mean headline."""
    means: dict[str, dict[str, float]] = {}
    for place in found:
        if place.architecture == architecture and place.gain:
            methods = methods_of_arms(architecture, place.term)
            reached = {methods[arm]: at.scores["headline"].mean for arm, at in place.arms.items() if at.scores}
            means.setdefault(place.task, {}).update(reached)
    counts = Counter(max(of, key=of.__getitem__) for of in means.values())
    return ", ".join(f"{method} at {n} of {len(means)} tasks" for method, n in counts.most_common())


def _not_run(results: Sequence[SuiteResult], found: Sequence[Place]) -> list[str]:
    """Name the commands of terms that were run without a skip connection only, and the time that they take."""
    spec, lines = results[0].spec, []
    for term in MATCHING:
        without = [methods_of_arms(place.architecture, term)["matched"] for place in found]
        seconds = sum(t.seconds for result in results for t in result.trials if t.method in without)
        if term in {place.term for place in found} or not seconds:
            continue
        size = f"--seeds {len(spec.seeds)} --n-steps {spec.n_steps}"
        lines.append(
            f'Not run: {term} with a skip connection. `faithfulness bench run --method "*-skip-{term}" {size} --out '
            f"out/skip-{term}` makes it, and `faithfulness bench leaderboard` with these results and that one a page "
            f"that has it; without a skip connection the same took {seconds / 60:.1f} minutes of one core."
        )
    return lines
