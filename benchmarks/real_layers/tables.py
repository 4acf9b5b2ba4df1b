"""Tables of one result: what was measured, what changed against no term, the passage."""

from collections.abc import Sequence

import numpy as np

from faithfulness_plugin.benchmarks.real_layers.analysis import Group, groups, value
from faithfulness_plugin.benchmarks.real_layers.arms import NONE, Arm
from faithfulness_plugin.benchmarks.real_layers.schema import RealLayersResult
from faithfulness_plugin.benchmarks.real_layers.verdict import verdicts
from faithfulness_plugin.measure.config import HALF_WAY
from faithfulness_plugin.measure.relative_errors import fvu, jacobian_error, jacobian_floor, response_error
from faithfulness_plugin.metrics.next_token import undefined_ce_recovered
from faithfulness_plugin.metrics.result import Directions
from faithfulness_plugin.results import vocabulary
from faithfulness_plugin.results.intervals import interval
from faithfulness_plugin.results.markdown import interval_text, markdown_table
from faithfulness_plugin.results.schema import Interval

ORDER: tuple[Directions, ...] = ("data", "difference", "isotropic")
PAIR_ERROR, HALF_WAY_ERROR = jacobian_error("data"), response_error("difference")


def tables(result: RealLayersResult) -> str:
    """Format what was measured, what changed against no term, and the passage, for every block and kind with runs.

    Args:
        result: complete or partial.

    Returns:
        Markdown.
    """
    parts = [summary(result)]
    for group in groups(result):
        parts += [f"**Block {group.name}.** {_floors(group)}", errors(group), _cosines(group)]
        if why := undefined_ce_recovered(group.layer.ce_zero, group.layer.ce_clean):
            parts.append(why)
        if group.matched():
            parts += ["Against no term:", _gains(group)]
    if any(t.repeated for t in result.trained):
        parts += ["**The repeated passage.**", passages(result)]
    return "\n\n".join(parts)


def overview(result: RealLayersResult) -> str:
    """Format what every arm changes against no term, in short, and the verdicts, for the first kind.

    Args:
        result: complete or partial.

    Returns:
        Markdown.
    """
    kinds = result.config.kinds[:1]
    header = [
        "block",
        "matched",
        "FVU",
        vocabulary.jacobian_error("data"),
        "of its distance to the floor",
        vocabulary.HALF_WAY_ERROR,
    ]
    rows = []
    for group in groups(result, kinds):
        for arm in group.matched():
            pair = group.gain(arm, PAIR_ERROR, "data")
            changes = [group.change(arm, fvu), pair.change, pair.of_distance, group.change(arm, HALF_WAY_ERROR)]
            rows.append([f"{group.block}", arm.name, *map(_percent, changes)])
    return "\n\n".join([summary(result), markdown_table(header, rows), verdicts(result, kinds)])


def summary(result: RealLayersResult) -> str:
    """Say what was run.

    Args:
        result: complete or partial.

    Returns:
        One paragraph.
    """
    c = result.config
    rows = len(result.trained[0].error) if result.trained else 0
    seeds = f"{c.seeds} seed{'s' * (c.seeds > 1)}"
    return (
        f"{result.model}: d_sae {c.d_sae}, {c.tokens:,} tokens from stores of {c.stored_prompts:,} prompts, lr "
        f"{c.lr:g}, {seeds}; measured on {rows} held-out prompts of {c.context_size} tokens (whole Jacobians at "
        f"{c.jacobian_rows} rows of each, the spliced model on {c.spliced_prompts})."
    )


def _floors(group: Group) -> str:
    """Say which errors the L0 allows at least."""
    each = {vocabulary.DIRECTIONS[d]: group.error(NONE, jacobian_floor(d)) for d in ORDER}
    text = ", ".join(f"{name} {interval_text(floor, 3)}" for name, floor in each.items())
    return f"Floor of the Jacobian error: {text}."


def errors(group: Group) -> str:
    """Format every arm's errors.

    Args:
        group: the runs.

    Returns:
        A Markdown table.
    """
    header = ["matched", "FVU", "L0", "dead", *map(vocabulary.jacobian_error, ORDER), vocabulary.HALF_WAY_ERROR]
    each = [fvu, *(jacobian_error(d) for d in ORDER), HALF_WAY_ERROR]

    def row(arm: Arm) -> list[str]:
        first, *others = (interval_text(group.error(arm, error), 3) for error in each)
        runs = group.runs(arm)
        l0, dead = _mean_text([t.l0 for t in runs], 1), _mean_text([t.dead_fraction for t in runs])
        return [arm.name, first, l0, dead, *others]

    return markdown_table(header, [row(arm) for arm in group.arms()])


def _cosines(group: Group) -> str:
    """Format every arm's cosines, means over rows, and the spliced model's loss."""
    header = ["matched", *map(vocabulary.jacobian_cosine, ORDER), vocabulary.HALF_WAY_COSINE, "CE recovered", "KL"]
    undefined = undefined_ce_recovered(group.layer.ce_zero, group.layer.ce_clean)
    half_way = group.result.config.distances.index(HALF_WAY)

    def row(arm: Arm) -> list[str]:
        runs = group.runs(arm)
        return [
            arm.name,
            *(_mean_text([t.jacobian_cosine[d] for t in runs]) for d in ORDER),
            _mean_text([t.response_cosine["difference"][half_way] for t in runs]),
            # results of earlier versions have a number where it is undefined
            _mean_text([None if undefined else t.ce_recovered for t in runs]),
            _mean_text([t.kl for t in runs]),
        ]

    return markdown_table(header, [row(arm) for arm in group.arms()])


def _gains(group: Group) -> str:
    """Format what every arm changes against no term, in percent."""
    header = ["matched", "FVU", vocabulary.HALF_WAY_ERROR, *map(vocabulary.jacobian_error, ORDER)]
    header += ["of the distance to the floor, pairs"]
    each = [fvu, HALF_WAY_ERROR, *(jacobian_error(d) for d in ORDER)]
    rows = [
        [
            arm.name,
            *(_percent(group.change(arm, error)) for error in each),
            _percent(group.gain(arm, PAIR_ERROR, "data").of_distance),
        ]
        for arm in group.matched()
    ]
    return markdown_table(header, rows)


def passages(result: RealLayersResult) -> str:
    """Format the passage in every transcoder of its blocks, where it was repeated and where it was not.

    Args:
        result: complete or partial.

    Returns:
        A Markdown table.
    """
    header = ["block", "trained", "matched", "share of its own features", "how many", "FVU there", "FVU"]
    rows = []
    for group in groups(result):
        for repeated in (False, True):
            for arm in group.arms(repeated=repeated):
                at = [t.passage for t in group.runs(arm, repeated=repeated) if t.passage is not None]
                if not at:
                    continue
                columns = [([p.share for p in at], 3), ([p.own_features for p in at], 1), ([p.fvu for p in at], 3)]
                rows.append(
                    [
                        group.name,
                        "with repetition" if repeated else "without",
                        arm.name,
                        *(interval_text(interval(values), digits) for values, digits in columns),
                        interval_text(group.error(arm, fvu, repeated=repeated), 3),
                    ]
                )
    return markdown_table(header, rows)


def beside_the_line(result: RealLayersResult, block: int) -> str:
    """Say how far cosines lie above the line that transcoders without a term make with FVU.

    Args:
        result: complete or partial.
        block: which layer.

    Returns:
        Markdown; "" without a line.
    """
    unmatched = [t for t in result.trained if t.block == block and t.arm == NONE and not t.repeated]
    if len({t.kind.name for t in unmatched}) < 3:
        return ""
    x, y = [value(result, t, fvu) for t in unmatched], [t.jacobian_cosine["data"] for t in unmatched]
    slope, at_0 = np.polyfit(x, y, 1)
    rest = float(np.abs(np.array(y) - slope * np.array(x) - at_0).max())
    rows = []
    for kind in result.config.kinds:
        group = Group(result, block, kind)
        for arm in group.matched():
            runs = group.runs(arm)
            above = [t.jacobian_cosine["data"] - (slope * value(result, t, fvu) + at_0) for t in runs]
            cosine = _mean_text([t.jacobian_cosine["data"] for t in runs])
            rows.append([kind.name, arm.name, cosine, f"{np.mean(above):+.3f}"])
    spread = f"{len(unmatched)} transcoders without a term lie within {rest:.3f} of it"
    return f"Block {block}: cosine = {at_0:.3f} {slope:+.3f} FVU; {spread}.\n\n" + markdown_table(
        ["kind", "matched", "cosine, pairs", "above the line"], rows
    )


def _percent(of: Interval | None) -> str:
    if of is None:
        return "—"
    ends = "" if of.low is None or of.high is None else f" [{100 * of.low:+.1f}, {100 * of.high:+.1f}]"
    return f"{100 * of.mean:+.1f} %{ends}"


def _mean_text(values: Sequence[float | None], digits: int = 3) -> str:
    numbers = [v for v in values if v is not None]
    return f"{np.mean(numbers):.{digits}f}" if numbers else "-"
