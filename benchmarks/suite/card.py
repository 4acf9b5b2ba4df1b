"""The card of a method: what it keeps at the layers' own L0, and along its sweeps."""

import numpy as np

from faithfulness_plugin.benchmarks.suite.at_layer_l0 import at_layer_l0
from faithfulness_plugin.benchmarks.suite.compare import KIND
from faithfulness_plugin.benchmarks.suite.report import SHOWN, failures, n_seeds
from faithfulness_plugin.benchmarks.suite.schema import SuiteResult
from faithfulness_plugin.benchmarks.tasks.registry import task
from faithfulness_plugin.errors import UsageError
from faithfulness_plugin.results.arms import arms_of_card
from faithfulness_plugin.results.card import Card
from faithfulness_plugin.results.curves import Curve, Panel
from faithfulness_plugin.results.intervals import RANGE, interval
from faithfulness_plugin.results.schema import fingerprint
from faithfulness_plugin.results.tables import Table


def card(result: SuiteResult, method: str = "", against: str = "") -> Card:
    """Build a method's card.

    Args:
        result: complete or partial.
        method: may be empty where the result has one only.
        against: another method of the result, drawn beside it; or empty.

    Returns:
        The card.

    Raises:
        UsageError: the result has no such method, or none of its trials has scores.
    """
    methods = arms_of_card(KIND, method, against, [m.name for m in result.spec.methods])
    for name in methods:
        if not any(result.scored(of, name) for of in result.spec.tasks):
            raise UsageError(f"no trial of {name} has scores: {next(iter(failures(result.trials)), 'run it first')}")
    return Card(
        title=f"Faithfulness card: {methods[0]} ({n_seeds(result)}, benchmark {result.spec.suite_version})",
        described="Headline against L0, task by task",
        panels=[_panel(result, name, methods) for name in result.spec.tasks],
        n_columns=4,
        table=_table(result, methods[0]),
        first_widths=(0.12, 0.06, 0.07, 0.2),
        source=fingerprint(result),
    )


def _table(result: SuiteResult, method: str) -> Table:
    rows = []
    for name in result.spec.tasks:
        found = at_layer_l0(result, name, method)
        rows.append([name, f"{result.layer_l0[name]:.2f}", found.seeds, *(found.cell(score) for score in SHOWN)])
    caption = (
        f"Scores of {method} at each layer's own L0: mean and 95 % interval over seeds, {RANGE}. Headline: 1 says "
        "that the mechanism is kept, 0 that the shortcut is; for the shuffled layer, circuits found by chance."
    )
    return Table(["task", "layer's L0", "seeds there", *SHOWN.values()], rows, caption)


def _panel(result: SuiteResult, name: str, methods: list[str]) -> Panel:
    return Panel(
        task(name).title,
        {method: _sweep(result, name, method) for method in methods if result.scored(name, method)},
        "effective L0",
        "headline",
        marks={"the layer": result.layer_l0[name]},
        ylim=(-0.05, 1.05) if task(name).keeps != "nothing" else (-0.05, 0.5),
    )


def _sweep(result: SuiteResult, name: str, method: str) -> Curve:
    """Return means over seeds, one point a strength, in the order of L0, with the headline's interval as the band."""
    trials, points = result.scored(name, method), []
    for strength in {trial.strength for trial in trials}:
        scores = [t.scores for t in trials if t.strength == strength and t.scores is not None]
        headline = interval([s.headline for s in scores])
        points.append((float(np.mean([s.l0 for s in scores])), headline.mean, *headline.drawn))
    return Curve(*map(list, zip(*sorted(points), strict=True)))
