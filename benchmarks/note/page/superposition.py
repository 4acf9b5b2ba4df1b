"""Jacobians where the layer itself is in superposition."""

from operator import attrgetter
from typing import Any

from faithfulness_plugin.benchmarks.note.page.section import ARMS, Section, band, grid, mean
from faithfulness_plugin.benchmarks.note.scan.report import METRICS, Read, over_seeds, seeds_table
from faithfulness_plugin.benchmarks.note.scan.schema import ScanResult, Trained
from faithfulness_plugin.results.curves import Curve, Panel, curves_figure

PENALTY = 0.05
FULL: Read = attrgetter("extras.spectrum.relative_error")
RANK: Read = attrgetter("extras.spectrum.rank")


def _top(i: int, name: str = "top_error") -> Read:
    read = attrgetter(f"extras.spectrum.{name}")
    return lambda trained: read(trained)[i]


def section(result: ScanResult) -> Section:
    """Compare Jacobians where the layer itself is in superposition.

    Args:
        result: the result of the preset "superposition".

    Returns:
        Spectra at one penalty, and the errors of full Jacobians and within their top subspaces at all.
    """
    arms, penalties = list(result.spec.arms), grid(result, "sparsity_coefficient")
    first: Any = result.trained[0].extras.spectrum
    rank, top = range(1, len(first.layer) + 1), [*map(float, first.top), float(len(first.layer))]
    errors = {f"top {k}": _top(i) for i, k in enumerate(first.top)}

    def of(arm: str, penalty: float = PENALTY) -> list[Trained]:
        return result.of(arm, sparsity_coefficient=penalty)

    spectra = {"the layer": Curve(rank, first.layer)}
    spectra |= {arm: band(rank, [over_seeds(of(arm), _top(k - 1, "transcoder")) for k in rank]) for arm in arms}
    ranked = {arm: band(top, [over_seeds(of(arm), read) for read in (*errors.values(), FULL)]) for arm in arms}
    by_l0 = {
        arm: Curve(
            [mean(of(arm, penalty), METRICS["effective L0"]) for penalty in penalties],
            [mean(of(arm, penalty), _top(1)) for penalty in penalties],
        )
        for arm in arms
    }
    columns = {
        "full error": (FULL, 3),
        **{name: (read, 3) for name, read in errors.items()},
        "rank of J_t": (RANK, 2),
        "effective L0": (METRICS["effective L0"], 2),
        "FVU": (METRICS["FVU"], 3),
    }
    panels = [
        Panel(f"mean spectra at penalty {PENALTY:g}", spectra, "singular value", "mean over rows", yscale="log"),
        Panel(
            f"error within the top k, penalty {PENALTY:g}",
            ranked,
            "k (last: all)",
            "relative error",
            xscale="log",
            yscale="log",
        ),
        Panel("error within the top 2, all penalties", by_l0, "effective L0", "relative error"),
    ]
    plain = of(arms[0])
    return Section(
        "superposition",
        {
            "failing": [
                arm for arm in arms if any(mean(of(arm, p), _top(1)) >= mean(of(arm, p), FULL) for p in penalties)
            ],
            "top": first.top[1],
            "settings": result.spec.settings(result.spec.points[0]),
            "layer": first.layer,
            "penalty": PENALTY,
            "plain": {"full": mean(plain, FULL), "top": mean(plain, _top(1)), "rank": mean(plain, RANK)},
        },
        seeds_table(["arm", "penalty"], [([arm, f"{p:g}"], of(arm, p)) for arm in arms for p in penalties], columns),
        {"superposition.png": curves_figure(panels, columns=3, order=ARMS)},
    )
