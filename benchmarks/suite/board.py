"""The part of the leaderboard's page that one uses: methods to sort and filter, and a card for each."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from faithfulness_plugin.benchmarks.methods.registry import BASELINES
from faithfulness_plugin.benchmarks.suite.at_layer_l0 import AtLayerL0
from faithfulness_plugin.benchmarks.suite.ranking import Ranked, ranking, with_mechanism
from faithfulness_plugin.benchmarks.suite.report import SHOWN
from faithfulness_plugin.benchmarks.suite.schema import SuiteResult
from faithfulness_plugin.benchmarks.tasks.registry import task

PARTS = Path(__file__).parent
DIGITS = 4


def board(results: Sequence[SuiteResult]) -> str:
    """Write the part, with its style, script and data inside.

    Args:
        results: complete, of one version of the benchmark.

    Returns:
        HTML, to be put on a page.

    Raises:
        UsageError: as `methods_of`.
    """
    data = json.dumps(board_data(results), separators=(",", ":")).replace("</", "<\\/")  # a name may hold anything
    style, body, script = (
        (PARTS / f"board.{kind}").read_text(encoding="utf-8").strip() for kind in ("css", "html", "js")
    )
    return (
        f"<style>{style}</style>\n{body}\n"
        f'<script type="application/json" id="board-data">{data}</script>\n<script>{script}</script>\n'
    )


def board_data(results: Sequence[SuiteResult]) -> dict[str, Any]:
    """Collect what the part shows.

    Args:
        results: complete, of one version of the benchmark.

    Returns:
        Tasks, titles of scores, and the methods in order, ready for JSON.

    Raises:
        UsageError: as `methods_of`.
    """
    first = results[0]
    ranked = with_mechanism(first.spec.tasks)
    tasks = [
        {"name": name, "title": task(name).title, "l0": round(first.layer_l0[name], 2), "ranked": name in ranked}
        for name in first.spec.tasks
    ]
    return {"tasks": tasks, "scores": SHOWN, "methods": [_method(of) for of in ranking(results)]}


def _method(of: Ranked) -> dict[str, Any]:
    shipped = BASELINES.get(of.method)
    return {
        "name": of.method,
        "architecture": shipped.architecture if shipped else "outside",
        "term": shipped.term if shipped else "outside",
        "skip": bool(shipped and shipped.skip),
        "rank": round(of.mean_rank, 2),
        "reached": of.reached,
        "at": {name: _at(at) for name, at in of.at.items()},
        "sweep": {name: _sweep(of, name) for name in of.at},
    }


def _at(at: AtLayerL0) -> dict[str, Any]:
    """Return each score's mean and ends, or the nearest L0 with the headline there."""
    if at.scores:
        return {name: [round(v, DIGITS) for v in (at.scores[name].mean, *at.scores[name].drawn)] for name in SHOWN}
    return {"nearest": [round(v, DIGITS) for v in at.nearest]} if at.nearest else {}


def _sweep(of: Ranked, name: str) -> list[list[float]]:
    """Return L0 and headline for each strength, means over seeds."""
    by_strength: dict[float, list[tuple[float, float]]] = {}
    for trial in of.result.scored(name, of.method):
        if trial.scores is not None:
            by_strength.setdefault(trial.strength, []).append((trial.scores.l0, trial.scores.headline))
    means = (np.mean(points, axis=0) for points in by_strength.values())
    return sorted([round(float(l0), DIGITS), round(float(headline), DIGITS)] for l0, headline in means)
