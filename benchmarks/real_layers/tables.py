"""Tables of one result: what was measured, what changed against no term, the passage."""

from collections.abc import Sequence

import numpy as np

from faithfulness_plugin.benchmarks.real_layers.analysis import (
    HALF_WAY,
    NONE,
    arms_of,
    fvu,
    gain_in,
    groups_of,
    jacobian_error,
    jacobian_floor,
    matched_arms,
    of_arm,
    over_prompts,
    response_error,
    value,
)
from faithfulness_plugin.benchmarks.real_layers.arms import Arm, Kind
from faithfulness_plugin.benchmarks.real_layers.schema import RealLayersResult
from faithfulness_plugin.benchmarks.real_layers.verdict import verdicts
from faithfulness_plugin.measure.held_out_schema import Directions
from faithfulness_plugin.metrics.next_token import undefined_ce_recovered
from faithfulness_plugin.results.intervals import interval
from faithfulness_plugin.results.markdown import interval_text, markdown_table
from faithfulness_plugin.results.schema import Interval

PAIR, DIFFERENCE, ISOTROPIC = "pairs", "differences", "isotropic"
DIRECTIONS: dict[str, Directions] = {PAIR: "data", DIFFERENCE: "difference", ISOTROPIC: "isotropic"}


def tables(result: RealLayersResult) -> str:
    """What was measured, what changed against no term, the passage; every block and kind that has runs."""
    parts = [summary(result)]
    for block, kind in groups_of(result):
        parts += [f"**Block {block}, {kind.name}.** {floors(result, block, kind)}", errors(result, block, kind)]
        parts.append(cosines(result, block, kind))
        if why := undefined_ce_recovered(result.layer(block).ce_zero, result.layer(block).ce_clean):
            parts.append(why)
        if matched_arms(result, block, kind):
            parts += ["Against no term:", gains(result, block, kind)]
    if any(t.repeated for t in result.trained):
        parts += ["**The repeated passage.**", passages(result)]
    return "\n\n".join(parts)


def summary(result: RealLayersResult) -> str:
    """What was run."""
    c = result.config
    rows = len(result.trained[0].error) if result.trained else 0
    seeds = f"{c.seeds} seed{'s' * (c.seeds > 1)}"
    return (
        f"{result.model}: d_sae {c.d_sae}, {c.tokens:,} tokens from stores of {c.stored_prompts:,} prompts, lr "
        f"{c.lr:g}, {seeds}; measured on {rows} held-out prompts of {c.context_size} tokens (whole Jacobians at "
        f"{c.jacobian_rows} rows of each, the spliced model on {c.spliced_prompts})."
    )


def floors(result: RealLayersResult, block: int, kind: Kind) -> str:
    """The least errors that the L0 allows."""
    of = of_arm(result, block, kind, NONE)
    each = {name: over_prompts(result, of, jacobian_floor(d)) for name, d in DIRECTIONS.items()}
    told = ", ".join(f"{name} {interval_text(floor, 3)}" for name, floor in each.items())
    return f"Floor of the Jacobian error: {told}."


def errors(result: RealLayersResult, block: int, kind: Kind) -> str:
    """Every arm's numbers."""
    header = ["matched", "FVU", "L0", "dead", *(f"J error, {name}" for name in DIRECTIONS), "half-way error"]

    def row(arm: Arm) -> list[str]:
        of = of_arm(result, block, kind, arm)
        reads = [fvu, *(jacobian_error(d) for d in DIRECTIONS.values()), response_error("difference")]
        first, *jacobians, half_way = (interval_text(over_prompts(result, of, read), 3) for read in reads)
        l0, dead = _mean_text([t.l0 for t in of], 1), _mean_text([t.dead_fraction for t in of])
        return [arm.name, first, l0, dead, *jacobians, half_way]

    return markdown_table(header, [row(arm) for arm in arms_of(result, block, kind)])


def cosines(result: RealLayersResult, block: int, kind: Kind) -> str:
    """Every arm's cosines, means over rows, and the spliced model's loss."""
    header = ["matched", *(f"J cosine, {name}" for name in DIRECTIONS), "half-way cosine", "CE recovered", "KL"]
    layer = result.layer(block)
    undefined = undefined_ce_recovered(layer.ce_zero, layer.ce_clean)  # results of before have a number there
    half_way = result.config.distances.index(HALF_WAY)

    def row(arm: Arm) -> list[str]:
        of = of_arm(result, block, kind, arm)
        return [
            arm.name,
            *(_mean_text([t.jacobian_cosine[d] for t in of]) for d in DIRECTIONS.values()),
            _mean_text([t.response_cosine["difference"][half_way] for t in of]),
            _mean_text([None if undefined else t.ce_recovered for t in of]),
            _mean_text([t.kl for t in of]),
        ]

    return markdown_table(header, [row(arm) for arm in arms_of(result, block, kind)])


def gains(result: RealLayersResult, block: int, kind: Kind) -> str:
    """Every arm against no term, in percent."""
    header = ["matched", "FVU", "half-way error", *(f"J error, {name}" for name in DIRECTIONS)]
    header += [f"of the distance to the floor, {PAIR}"]
    rows = []
    for arm in matched_arms(result, block, kind):
        pair = gain_in(result, block, kind, arm, jacobian_error("data"), "data")
        others = [jacobian_error(DIRECTIONS[name]) for name in (DIFFERENCE, ISOTROPIC)]
        changes = [gain_in(result, block, kind, arm, read) for read in (fvu, response_error("difference"))]
        changes += [pair, *(gain_in(result, block, kind, arm, read) for read in others)]
        rows.append([arm.name, *(_percent(g.change) for g in changes), _percent(pair.of_distance)])
    return markdown_table(header, rows)


def overview(result: RealLayersResult) -> str:
    """What every arm changes against no term, in short, and the verdicts: of the first kind."""
    kind = result.config.kinds[0]
    header = ["block", "matched", "FVU", f"J error, {PAIR}", "of its distance to the floor", "half-way error"]
    rows = []
    for block in result.config.blocks:
        for arm in matched_arms(result, block, kind):
            pair = gain_in(result, block, kind, arm, jacobian_error("data"), "data")
            others = [gain_in(result, block, kind, arm, read).change for read in (fvu, response_error("difference"))]
            changes = (others[0], pair.change, pair.of_distance, others[1])
            rows.append([f"{block}", arm.name, *map(_percent, changes)])
    return "\n\n".join([summary(result), markdown_table(header, rows), verdicts(result, [kind])])


def passages(result: RealLayersResult) -> str:
    """The passage in every transcoder of its blocks: where it was repeated, and where it was not."""
    header = ["block", "trained", "matched", "share of its own features", "how many", "FVU there", "FVU"]
    rows = []
    for block, kind in groups_of(result):
        for repeated in (False, True):
            for arm in arms_of(result, block, kind, repeated=repeated):
                of = of_arm(result, block, kind, arm, repeated=repeated)
                at = [t.passage for t in of if t.passage is not None]
                if not at:
                    continue
                rows.append(
                    [
                        f"{block}, {kind.name}",
                        "with repetition" if repeated else "without",
                        arm.name,
                        interval_text(interval([p.share for p in at]), 3),
                        interval_text(interval([p.own_features for p in at]), 1),
                        interval_text(interval([p.fvu for p in at]), 3),
                        interval_text(over_prompts(result, of, fvu), 3),
                    ]
                )
    return markdown_table(header, rows)


def beside_the_line(result: RealLayersResult, block: int) -> str:
    """How far cosines lie above the line that transcoders without a term make with FVU."""
    unmatched = [t for t in result.trained if t.block == block and t.arm == NONE and not t.repeated]
    if len({t.kind.name for t in unmatched}) < 3:
        return ""
    x, y = [value(result, t, fvu) for t in unmatched], [t.jacobian_cosine["data"] for t in unmatched]
    slope, at_0 = np.polyfit(x, y, 1)
    rest = float(np.abs(np.array(y) - slope * np.array(x) - at_0).max())
    rows = []
    for kind in result.config.kinds:
        for arm in matched_arms(result, block, kind):
            of = of_arm(result, block, kind, arm)
            above = [t.jacobian_cosine["data"] - (slope * value(result, t, fvu) + at_0) for t in of]
            rows.append([kind.name, arm.name, f"{np.mean([t.jacobian_cosine['data'] for t in of]):.3f}"])
            rows[-1].append(f"{np.mean(above):+.3f}")
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
