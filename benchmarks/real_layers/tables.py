"""Tables of one result, by block and kind of transcoder: arms, the controls beneath, floors both ways."""

from faithfulness_plugin.benchmarks.real_layers.analysis import Group, floor_with, groups
from faithfulness_plugin.benchmarks.real_layers.arms import Arm
from faithfulness_plugin.benchmarks.real_layers.cells import mean_text, percent
from faithfulness_plugin.benchmarks.real_layers.closing import closing
from faithfulness_plugin.benchmarks.real_layers.overview import summary
from faithfulness_plugin.benchmarks.real_layers.passages import passages
from faithfulness_plugin.benchmarks.real_layers.prices import prices
from faithfulness_plugin.benchmarks.real_layers.schema import FloorOf, RealLayersResult
from faithfulness_plugin.benchmarks.real_layers.sweep import sweep
from faithfulness_plugin.measure.config import HALF_WAY
from faithfulness_plugin.measure.relative_errors import (
    RelativeError,
    ce_recovered,
    delta_ce,
    fvu,
    jacobian_error,
    jacobian_floor,
    kl,
    response_error,
)
from faithfulness_plugin.metrics.next_token import undefined_ce_recovered
from faithfulness_plugin.metrics.result import Directions
from faithfulness_plugin.results import vocabulary
from faithfulness_plugin.results.markdown import interval_text, markdown_table

ORDER: tuple[Directions, ...] = ("data", "difference", "isotropic")
PAIR_ERROR, HALF_WAY_ERROR = jacobian_error("data"), response_error("difference")
FLOORS: dict[FloorOf, str] = {
    "no skip": "without a skip connection",
    "mean Jacobian": "with the mean Jacobian as skip connection",
}


def tables(result: RealLayersResult) -> str:
    """Format what was measured, what changed against the baselines, prices, and the passage.

    Args:
        result: complete or partial.

    Returns:
        Markdown.
    """
    parts = [summary(result)]
    for group in groups(result):
        parts += [f"**Block {group.name}.** {floors(group)}", errors(group), cosines(group)]
        layer = group.layer
        if why := undefined_ce_recovered(layer.ce_zero, layer.ce_clean):
            parts.append(why)
        if group.matched():
            parts += [
                "Against the same without a term or control (no term; of arms with a skip connection, skip alone):",
                gains(group),
            ]
    parts += [text for text in (sweep(result), closing(result), prices(result)) if text]
    if any(t.repeated for t in result.trained):
        parts += ["**The repeated passage.**", passages(result)]
    return "\n\n".join(parts)


def floors(group: Group) -> str:
    """Say which errors the L0 allows at least, without and with a skip connection.

    Args:
        group: the runs.

    Returns:
        A line.
    """
    at = group.reference
    if all(run.floors is None for run in group.runs(at)):  # as version 0.8 measured
        return f"Floor of the Jacobian error: {_listed(group, at, {d: jacobian_floor(d) for d in ORDER})}."
    each = [f"{text} {_listed(group, at, {d: floor_with(of, d) for d in ORDER})}" for of, text in FLOORS.items()]
    return f"Floors of the Jacobian error at this number of active features: {'; '.join(each)}."


def _listed(group: Group, arm: Arm, each: dict[Directions, RelativeError]) -> str:
    return ", ".join(
        f"{vocabulary.DIRECTIONS[d]} {interval_text(group.error(arm, error), 3)}" for d, error in each.items()
    )


def ordered(group: Group) -> list[Arm]:
    """List the arms with runs, controls last.

    Args:
        group: the runs.

    Returns:
        The arms.
    """
    return sorted(group.arms(), key=lambda arm: (arm.layer == "permuted", arm.is_control))


def errors(group: Group) -> str:
    """Format every arm's errors and what it costs the model, controls beneath.

    Args:
        group: the runs.

    Returns:
        A Markdown table.
    """
    header = ["arm", "FVU", "L0", "dead", *map(vocabulary.jacobian_error, ORDER), vocabulary.HALF_WAY_ERROR]
    header += ["ΔCE", "CE recovered", "KL"]
    each = [fvu, *(jacobian_error(d) for d in ORDER), HALF_WAY_ERROR]

    def row(arm: Arm) -> list[str]:
        first, *others = (interval_text(group.error(arm, error), 3) for error in each)
        runs = group.runs(arm)
        l0, dead = mean_text([t.l0 for t in runs], 1), mean_text([t.dead_fraction for t in runs])
        name = f"*control:* {arm.name}" if arm.is_control else arm.name
        return [name, first, l0, dead, *others, *_spliced(group, arm)]

    return markdown_table(header, [row(arm) for arm in ordered(group)])


def _spliced(group: Group, arm: Arm) -> list[str]:
    """Format ΔCE, CE recovered and KL; intervals where they are known by prompt."""
    runs, layer = group.runs(arm), group.result.layer(group.block, arm.layer)
    undefined = undefined_ce_recovered(layer.ce_zero, layer.ce_clean)
    if any(t.spliced is None for t in runs):
        # results of earlier versions have a number where it is undefined
        recovered = mean_text([None if undefined else t.ce_recovered for t in runs])
        return [mean_text([t.ce - layer.ce_clean for t in runs], 4), recovered, mean_text([t.kl for t in runs])]
    recovered = "-" if undefined else interval_text(group.error(arm, ce_recovered), 3)
    return [interval_text(group.error(arm, delta_ce), 4), recovered, interval_text(group.error(arm, kl), 4)]


def cosines(group: Group) -> str:
    """Format every arm's cosines, means over rows.

    Args:
        group: the runs.

    Returns:
        A Markdown table.
    """
    header = ["arm", *map(vocabulary.jacobian_cosine, ORDER), vocabulary.HALF_WAY_COSINE]
    half_way = group.result.config.distances.index(HALF_WAY)

    def row(arm: Arm) -> list[str]:
        runs = group.runs(arm)
        along = [mean_text([t.jacobian_cosine[d] for t in runs]) for d in ORDER]
        return [arm.name, *along, mean_text([t.response_cosine["difference"][half_way] for t in runs])]

    return markdown_table(header, [row(arm) for arm in ordered(group)])


def gains(group: Group) -> str:
    """Format what every arm changes against its baseline, in percent.

    Args:
        group: the runs.

    Returns:
        A Markdown table.
    """
    header = ["arm", "FVU", vocabulary.HALF_WAY_ERROR, *map(vocabulary.jacobian_error, ORDER)]
    header += ["of the distance to the floor, pairs"]
    each = [fvu, HALF_WAY_ERROR, *(jacobian_error(d) for d in ORDER)]
    rows = [
        [
            arm.name,
            *(percent(group.change(arm, error)) for error in each),
            percent(group.gain(arm, PAIR_ERROR, "data").of_distance),
        ]
        for arm in ordered(group)
        if arm in group.matched()
    ]
    return markdown_table(header, rows)
