"""A layer that memorises: the feature must survive."""

from operator import attrgetter

from faithfulness_plugin.benchmarks.note.page.section import ARMS, Section, curve_over, grid
from faithfulness_plugin.benchmarks.note.scan.report import DIGITS, METRICS, seeds_table
from faithfulness_plugin.benchmarks.note.scan.schema import ScanResult, Trained
from faithfulness_plugin.metrics.feature_recovery import RECOVERED_COSINE
from faithfulness_plugin.results.curves import Panel, curves_figure

OWN_M = 0.5
"""m / max of the layer itself: half of f(p) = 2 p is written by its datapoint neuron, half by |x|'s."""
MATCHED = ("Jacobian", "Jacobian at the kink", "secant")
PENALTY = "sparsity_coefficient"


def _kept(trained: Trained) -> bool:
    return attrgetter("extras.point_circuit")(trained) >= RECOVERED_COSINE


def section(result: ScanResult) -> Section:
    """Show whether the datapoint feature survives where the layer itself has one.

    Args:
        result: the result of the preset "memorizing_layer".

    Returns:
        Counts of seeds that keep it, and that recover all circuits, for each arm and penalty.
    """
    settings = result.spec.settings(result.spec.points[0])
    arms, n_circuits, n_ones = list(result.spec.arms), 2 * settings.d_in + 1, settings.n_ones
    own_norm = 2 * (n_ones * (n_ones - 1)) ** 0.5  # its neuron adds 2 to each entry between p's coordinates
    found = {(arm, p): result.of(arm, **{PENALTY: p}) for arm in arms for p in grid(result, PENALTY)}
    kept = {at: sum(map(_kept, of)) for at, of in found.items()}
    whole = {at: sum(t.metrics.recovered == n_circuits for t in of) for at, of in found.items()}
    columns = {
        f"m / max (layer: {OWN_M:g})": (METRICS["m / max"], 3),
        f"off-diagonal norm at p ({own_norm:.2f})": (attrgetter("metrics.off_diagonal_norm"), 2),
        **{name: (METRICS[name], DIGITS[name]) for name in ("FVU", "Jacobian error", "effective L0")},
    }
    rows = [
        ([at[0], f"{at[1]:g}", *(f"{count[at]} of {len(of)}" for count in (kept, whole))], of)
        for at, of in found.items()
    ]
    drawn = {f"m / max (layer: {OWN_M:g})": "m / max", f"circuits recovered of {n_circuits}": "circuits recovered"}
    panels = [
        Panel(
            title, {arm: curve_over(result, arm, PENALTY, METRICS[name]) for arm in arms}, "sparsity coefficient", title
        )
        for title, name in drawn.items()
    ]
    seeds = result.spec.seeds
    missing = {at: n for at, n in whole.items() if at[0] in MATCHED and n < seeds}
    return Section(
        "memorizing_layer",
        {
            "n_circuits": n_circuits,
            "own_m": OWN_M,
            "own_norm": own_norm,
            "broken": [f"{arm} at {p:g} ({n} of {seeds})" for (arm, p), n in missing.items()],
            "kept_by": [arm for arm in MATCHED if arm not in {arm for arm, _ in missing}],
            "whole": [f"{arm} at {p:g}" for (arm, p), n in whole.items() if n == seeds],
            "cosine": RECOVERED_COSINE,
            "unmatched": sum(map(_kept, result.of("no term"))),
            "n_unmatched": len(result.of("no term")),
        },
        seeds_table(["arm", "penalty", "datapoint feature kept", f"all {n_circuits} circuits"], rows, columns),
        {"memorizing_layer.png": curves_figure(panels, columns=2, order=ARMS)},
    )
