"""How memorization emerges in training."""

import numpy as np

from faithfulness_plugin.benchmarks.note.page.section import ARMS, Drawn, Section, band
from faithfulness_plugin.benchmarks.note.scan.schema import ScanResult, Trained
from faithfulness_plugin.results.curves import Curve, Panel, curves_figure
from faithfulness_plugin.results.intervals import interval
from faithfulness_plugin.results.markdown import markdown_table

HALF = 0.5


def first_step(trained: Trained) -> float | None:
    """The step from which on m stays above half of its maximum, or None."""
    for i, record in enumerate(trained.history):
        if all(later["m_fraction"] > HALF for later in trained.history[i:]):
            return record["step"]
    return None


def section(result: ScanResult) -> Section:
    """Curves over steps, seed by seed for m."""
    arms = list(result.spec.arms)
    without, matched = (result.of(arm) for arm in arms[:2])
    steps = [record["step"] for record in without[0].history]

    def over(trained: list[Trained], name: str) -> Curve:
        return band(steps, [interval([t.history[i].get(name, 0.0) for t in trained]) for i in range(len(steps))])

    def per_seed(trained: list[Trained]) -> dict[str, Curve]:
        return {f"seed {t.seed}": Curve(steps, [r["m_fraction"] for r in t.history]) for t in trained}

    names = {"l0": "L0 (a > 0) of the batch", "mse_loss": "squared error of the batch", "sparsity_loss": "penalty"}
    panels = [
        Panel("m / max", {arm: over(result.of(arm), "m_fraction") for arm in arms}, "step", "m / max"),
        *(
            Panel(title, {arm: over(result.of(arm), name) for arm in arms}, "step", title, yscale="log")
            for name, title in names.items()
        ),
    ]
    onset = [step for t in without if (step := first_step(t)) is not None]
    peak = [max(record["m_fraction"] for record in t.history) for t in matched]
    early = [max(r["m_fraction"] for r in t.history if r["step"] <= steps[-1] / 10) for t in without]
    rows = [
        [
            arm,
            f"{sum(first_step(t) is not None for t in result.of(arm))} of {len(result.of(arm))}",
            _range([s for t in result.of(arm) if (s := first_step(t)) is not None], "{:.0f}"),
            _range([max(r["m_fraction"] for r in t.history) for t in result.of(arm)], "{:.3f}"),
            _range([t.history[-1]["m_fraction"] for t in result.of(arm)], "{:.3f}"),
        ]
        for arm in arms
    ]
    never = max(peak) <= HALF
    stays = len(onset) == len(without) and all(_above(t) == first_step(t) for t in without)
    return Section(
        name="dynamics",
        title="How it emerges",
        claim="Once the datapoint feature has formed (m above half of its maximum) it stays; with matching it does "
        "not form.",
        falsifier="A seed in which m falls below half again without matching, or ever exceeds it with matching.",
        verdict="Holds." if never and stays else "Does not hold in every seed.",
        finding=f"In the first tenth of training m rises to {_range(early, '{:.2f}')} of "
        f"its maximum. Without matching, m is above half of its maximum for good from step {_range(onset, '{:.0f}')} "
        f"of {steps[-1]:.0f} on, in {len(onset)} of {len(without)} seeds. With matching, whose weight grows over the "
        f"first eighth of the steps, m reaches {_range(peak, '{:.3f}')} of its maximum on the way and ends at "
        f"{_range([t.history[-1]['m_fraction'] for t in matched], '{:.3f}')}.",
        table=markdown_table(
            ["arm", "seeds that memorise at the end", "for good from step", "largest m / max on the way", "at the end"],
            rows,
        ),
        caveat=f"Recorded every {result.spec.log_every} steps. L0 and losses are of single training batches, which "
        "hold p.",
        figures={
            "dynamics.png": Drawn(
                curves_figure(panels, columns=2, order=ARMS), "m, L0 and losses over training with and without matching"
            ),
            "dynamics_by_seed.png": Drawn(
                curves_figure(
                    [Panel(arm, per_seed(result.of(arm)), "step (log)", "m / max", xscale="log") for arm in arms],
                    columns=2,
                    legend=False,
                ),
                "m over training, one line a seed",
            ),
        },
    )


def _range(values: list[float], form: str) -> str:
    if not values:
        return "none"
    low, high = form.format(min(values)), form.format(max(values))
    return low if low == high else f"{low} to {high} (median {form.format(float(np.median(values)))})"


def _above(trained: Trained) -> float | None:
    """The first step at which m is above half of its maximum."""
    return next((r["step"] for r in trained.history if r["m_fraction"] > HALF), None)
