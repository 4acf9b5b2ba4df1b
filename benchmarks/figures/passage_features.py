"""Which features write the output at a passage, and whether they fire anywhere else."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from matplotlib.figure import Figure

NOWHERE = 1e-4
"""Where features are drawn that fire nowhere else."""


class PassageFeatures(NamedTuple):
    """Of one transcoder."""

    rate_elsewhere: Sequence[float]
    carried: Sequence[float]
    share: float


def passage_features(panels: Mapping[str, PassageFeatures], rare: float) -> Figure:
    """A dot a feature: its firing rate on other text, and the part of the passage's output that it carries. Left of
    the line it is the passage's own."""
    columns = min(4, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(3.1 * columns + 0.3, 2.9 * rows + 0.3), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    for ax, (title, of) in zip(axes.flat, panels.items(), strict=False):
        x = [max(rate, NOWHERE) for rate in of.rate_elsewhere]
        own = [rate <= rare for rate in of.rate_elsewhere]
        colors = ["#D55E00" if is_own else "#0072B2" for is_own in own]
        ax.scatter(x, of.carried, c=colors, s=14, linewidths=0, zorder=3)
        ax.axvline(rare, color="0.45", linewidth=1, linestyle=(0, (2, 2)))
        ax.set_xscale("log")
        ax.set_xlim(NOWHERE / 1.6, 1.3)
        ax.set_title(f"{title}\nown features carry {of.share:.2f}", fontsize=9)
        ax.tick_params(labelsize=8)
        ax.grid(color="0.92", zorder=0)
        ax.spines[["top", "right"]].set_visible(False)
    for ax in axes.flat[len(panels) :]:
        ax.set_axis_off()
    figure.supxlabel("share of other tokens where the feature fires (left edge: none)", fontsize=9)
    figure.supylabel("carried of the passage's output", fontsize=9)
    return figure
