"""How memorization emerges in training."""

from collections.abc import Sequence

import numpy as np

from faithfulness_plugin.benchmarks.note.page.section import ARMS, Section, band
from faithfulness_plugin.benchmarks.note.scan.schema import ScanResult, Trained
from faithfulness_plugin.results.curves import Curve, Panel, curves_figure
from faithfulness_plugin.results.intervals import interval
from faithfulness_plugin.results.markdown import markdown_table

HALF = 0.5
LOGGED = {"l0": "L0 (a > 0) of the batch", "mse_loss": "squared error of the batch", "sparsity_loss": "penalty"}


def _first_step(trained: Trained) -> float | None:
    """Find the step from which on m stays above half of its maximum, or None."""
    for i, record in enumerate(trained.history):
        if all(later["m_fraction"] > HALF for later in trained.history[i:]):
            return record["step"]
    return None


def section(result: ScanResult) -> Section:
    """Show how memorization emerges over training.

    Args:
        result: the result of the preset "dynamics".

    Returns:
        Curves over steps, for m also seed by seed.
    """
    arms = list(result.spec.arms)
    without = result.of(arms[0])
    steps = [record["step"] for record in without[0].history]

    def over(arm: str, name: str) -> Curve:
        histories = [t.history for t in result.of(arm)]
        return band(steps, [interval([records[i].get(name, 0.0) for records in histories]) for i in range(len(steps))])

    def per_seed(arm: str) -> dict[str, Curve]:
        return {f"seed {t.seed}": Curve(steps, _fractions(t)) for t in result.of(arm)}

    panels = [Panel("m / max", {arm: over(arm, "m_fraction") for arm in arms}, "step", "m / max")]
    for name, title in LOGGED.items():
        panels.append(Panel(title, {arm: over(arm, name) for arm in arms}, "step", title, yscale="log"))
    by_seed = [Panel(arm, per_seed(arm), "step (log)", "m / max", xscale="log") for arm in arms]
    onset = {arm: [step for t in result.of(arm) if (step := _first_step(t)) is not None] for arm in arms}
    peak = {arm: [max(_fractions(t)) for t in result.of(arm)] for arm in arms}
    end = {arm: [_fractions(t)[-1] for t in result.of(arm)] for arm in arms}
    early = [max(r["m_fraction"] for r in t.history if r["step"] <= steps[-1] / 10) for t in without]
    header = ["arm", "seeds that memorise at the end", "for good from step", "largest m / max on the way", "at the end"]
    rows = [
        [
            arm,
            f"{len(onset[arm])} of {len(end[arm])}",
            _range(onset[arm], 0),
            _range(peak[arm], 3),
            _range(end[arm], 3),
        ]
        for arm in arms
    ]
    plain, with_term = arms[:2]
    return Section(
        "dynamics",
        {
            "holds": all(_stays(t) for t in without) and max(peak[with_term]) <= HALF,
            "early": _range(early, 2),
            "onset": _range(onset[plain], 0),
            "n_onset": len(onset[plain]),
            "seeds": len(without),
            "last_step": f"{steps[-1]:.0f}",
            "peak": _range(peak[with_term], 3),
            "end": _range(end[with_term], 3),
            "log_every": result.spec.log_every,
        },
        markdown_table(header, rows),
        {
            "dynamics.png": curves_figure(panels, columns=2, order=ARMS),
            "dynamics_by_seed.png": curves_figure(by_seed, columns=2, legend=False),
        },
    )


def _fractions(trained: Trained) -> list[float]:
    return [record["m_fraction"] for record in trained.history]


def _stays(trained: Trained) -> bool:
    """Tell whether m passes half of its maximum, and then never falls below it."""
    above = next((record["step"] for record in trained.history if record["m_fraction"] > HALF), None)
    return above is not None and above == _first_step(trained)


def _range(values: Sequence[float], digits: int) -> str:
    if not values:
        return "none"
    low, middle, high = (f"{value:.{digits}f}" for value in (min(values), float(np.median(values)), max(values)))
    return low if low == high else f"{low} to {high} (median {middle})"
