"""The result page: tables, verdicts and figures, all from one result file."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from faithfulness_plugin.benchmarks.markdown import interval_text, markdown_table
from faithfulness_plugin.benchmarks.real_layers.analysis import (
    Gain,
    Read,
    fvu,
    gain,
    jacobian_error,
    of_arm,
    over_prompts,
    response_error,
    value,
)
from faithfulness_plugin.benchmarks.real_layers.arms import Arm, Kind
from faithfulness_plugin.benchmarks.real_layers.schema import Directions, RealLayersResult, Trained
from faithfulness_plugin.benchmarks.schema import Interval, ResultError, fingerprint, write_text
from faithfulness_plugin.benchmarks.statistics import interval
from faithfulness_plugin.figures.curves import Curve, Panel, curves_figure
from faithfulness_plugin.figures.error_against_fvu import Plane, Point, error_against_fvu
from faithfulness_plugin.figures.panels import save_figure
from faithfulness_plugin.figures.passage_features import PassageFeatures, passage_features
from faithfulness_plugin.metrics.passage_memorization import RARE

TOLERATED = 0.01
"""By how much FVU may rise."""
PAIR, DIFFERENCE, ISOTROPIC = "pairs", "differences", "isotropic"
DIRECTIONS: dict[str, Directions] = {PAIR: "data", DIFFERENCE: "difference", ISOTROPIC: "isotropic"}
NONE = Arm()


def tables(result: RealLayersResult) -> str:
    """What was measured, what changed against no term, the passage; every block and kind that has runs."""
    parts = [summary(result)]
    for block, kind in _groups(result):
        parts += [f"**Block {block}, {kind.name}.** {floors(result, block, kind)}", errors(result, block, kind)]
        if _gained(result, block, kind):
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
        f"{c.lr:g}, {seeds}; measured on {rows} held-out prompts of {c.context_size} tokens."
    )


def floors(result: RealLayersResult, block: int, kind: Kind) -> str:
    """The least errors that the L0 allows."""
    of = of_arm(result, block, kind, NONE)
    told = ", ".join(f"{name} {np.mean([t.floor[d] for t in of]):.3f}" for name, d in DIRECTIONS.items())
    return f"Floor of the Jacobian error: {told}."


def errors(result: RealLayersResult, block: int, kind: Kind) -> str:
    """Every arm's numbers."""
    header = ["matched", "FVU", "L0", "dead", *(f"J error, {name}" for name in DIRECTIONS)]
    header += ["J cosine, pairs", "half-way error", "CE recovered", "KL", "tokens a second"]

    def row(arm: Arm) -> list[str]:
        of = of_arm(result, block, kind, arm)
        reads = [fvu, *(jacobian_error(d) for d in DIRECTIONS.values()), response_error("difference")]
        first, *jacobians, half_way = (interval_text(over_prompts(result, of, read), 3) for read in reads)
        seconds = [result.config.tokens / t.seconds for t in of if t.seconds is not None]
        return [
            arm.name,
            first,
            f"{np.mean([t.l0 for t in of]):.1f}",
            f"{np.mean([t.dead_fraction for t in of]):.3f}",
            *jacobians,
            f"{np.mean([t.jacobian_cosine['data'] for t in of]):.3f}",
            half_way,
            _mean_text([t.ce_recovered for t in of]),
            _mean_text([t.kl for t in of]),
            f"{np.mean(seconds):,.0f}" if seconds else "-",
        ]

    return markdown_table(header, [row(arm) for arm in _arms(result, block, kind)])


def gains(result: RealLayersResult, block: int, kind: Kind) -> str:
    """Every arm against no term, in percent."""
    header = ["matched", "FVU", "half-way error", *(f"J error, {name}" for name in DIRECTIONS)]
    header += [f"of the distance to the floor, {PAIR}"]
    rows = []
    for arm in _gained(result, block, kind):
        pair = gain_in(result, block, kind, arm, jacobian_error("data"), "data")
        others = [jacobian_error(DIRECTIONS[name]) for name in (DIFFERENCE, ISOTROPIC)]
        changes = [gain_in(result, block, kind, arm, read) for read in (fvu, response_error("difference"))]
        changes += [pair, *(gain_in(result, block, kind, arm, read) for read in others)]
        assert pair.of_distance is not None
        rows.append([arm.name, *(_percent(g.change) for g in changes), _percent(pair.of_distance)])
    return markdown_table(header, rows)


def gain_in(
    result: RealLayersResult, block: int, kind: Kind, arm: Arm, read: Read, floor: Directions | None = None
) -> Gain:
    """Of an arm over no term."""
    return gain(result, of_arm(result, block, kind, arm), of_arm(result, block, kind, NONE), read, floor)


def passages(result: RealLayersResult) -> str:
    """The passage in every transcoder of its blocks: where it was repeated, and where it was not."""
    header = ["block", "trained", "matched", "share of its own features", "how many", "FVU there", "FVU"]
    rows = []
    for block, kind in _groups(result):
        for repeated in (False, True):
            for arm in _arms(result, block, kind, repeated=repeated):
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


def verdict(result: RealLayersResult, block: int, kind: Kind) -> str:
    """Which data probes lower both errors at no more than 1 % of FVU, and in which errors they beat augmentation."""
    pair, half_way = jacobian_error("data"), response_error("difference")
    arms = [a for a in _gained(result, block, kind) if a.term != "augmentation" and a.probe != "isotropic"]
    controls = [a for a in _gained(result, block, kind) if a.term == "augmentation"]

    def both_lower(arm: Arm) -> bool:
        changes = [gain_in(result, block, kind, arm, read).change for read in (pair, half_way)]
        return gain_in(result, block, kind, arm, fvu).change.mean <= TOLERATED and all(map(_below_0, changes))

    def beats_controls(arm: Arm, read: Read) -> bool:
        of = of_arm(result, block, kind, arm)
        return all(_below_0(gain(result, of, of_arm(result, block, kind, c), read).change) for c in controls)

    found = [arm for arm in arms if both_lower(arm)]
    told = f"Block {block}, {kind.name}: {_listed(found)} lower{'s' * (len(found) < 2)} both at no such price"
    if not found or not controls:
        return f"{told}."
    errors = {"the Jacobian error": pair, "the half-way error": half_way}
    ahead = [f"in {name} {_listed([a for a in found if beats_controls(a, read)])}" for name, read in errors.items()]
    return f"{told}. Ahead of augmentation (paired interval): {'; '.join(ahead)}."


def _listed(arms: Sequence[Arm]) -> str:
    names = [arm.name for arm in arms]
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names) or "nothing"


def value_of(result: RealLayersResult, block: int, kind: Kind, arm: Arm, read: Read) -> float:
    """The mean over seeds."""
    return float(np.mean([value(result, t, read) for t in of_arm(result, block, kind, arm)]))


def beside_the_line(result: RealLayersResult, block: int) -> str:
    """How far cosines lie above the line that transcoders without a term make with FVU."""
    unmatched = [t for t in result.trained if t.block == block and t.arm == NONE and not t.repeated]
    if len({t.kind.name for t in unmatched}) < 3:
        return ""
    x, y = [value(result, t, fvu) for t in unmatched], [t.jacobian_cosine["data"] for t in unmatched]
    slope, at_0 = np.polyfit(x, y, 1)
    rest = float(np.std(np.array(y) - slope * np.array(x) - at_0))
    rows = []
    for kind in result.config.kinds:
        for arm in _gained(result, block, kind):
            of = of_arm(result, block, kind, arm)
            above = [t.jacobian_cosine["data"] - (slope * value(result, t, fvu) + at_0) for t in of]
            rows.append([kind.name, arm.name, f"{np.mean([t.jacobian_cosine['data'] for t in of]):.3f}"])
            rows[-1].append(f"{np.mean(above):+.3f}")
    spread = f"{len(unmatched)} transcoders without a term lie on it up to {rest:.3f} (standard deviation)"
    return f"Block {block}: cosine = {at_0:.3f} {slope:+.3f} FVU; {spread}.\n\n" + markdown_table(
        ["kind", "matched", "cosine, pairs", "above the line"], rows
    )


def overview(result: RealLayersResult) -> str:
    """What every arm changes against no term, in short, and the verdicts: of the first kind."""
    kind = result.config.kinds[0]
    header = ["block", "matched", "FVU", f"J error, {PAIR}", "of its distance to the floor", "half-way error"]
    rows = []
    for block in result.config.blocks:
        for arm in _gained(result, block, kind):
            pair = gain_in(result, block, kind, arm, jacobian_error("data"), "data")
            others = [gain_in(result, block, kind, arm, read).change for read in (fvu, response_error("difference"))]
            assert pair.of_distance is not None
            changes = (others[0], pair.change, pair.of_distance, others[1])
            rows.append([f"{block}", arm.name, *map(_percent, changes)])
    return "\n\n".join([summary(result), markdown_table(header, rows), verdicts(result)])


def verdicts(result: RealLayersResult) -> str:
    """Of every block, for the first kind, with what they say."""
    lines = [f"- {verdict(result, block, result.config.kinds[0])}" for block in result.config.blocks]
    told = (
        "Changes against no term on the same tokens, with 95 % intervals over held-out prompts. Which data probes "
        "lower both the Jacobian error and the half-way error, at an FVU no more than 1 % worse?"
    )
    return told + "\n\n" + "\n".join(lines)


def page(result: RealLayersResult) -> str:
    """The whole page."""
    lines = [text for block in result.config.blocks if (text := beside_the_line(result, block))]
    parts = [
        "# Jacobian matching on the MLPs of a language model",
        "Transcoders of real MLPs, trained on the same rows for as many tokens, with and without a term that matches "
        "derivatives. Errors are ratios of means on held-out tokens, with 95 % intervals over held-out prompts (a "
        "bootstrap that draws whole prompts, and seeds where there are several); changes are paired, prompt by prompt. "
        "Jacobian errors: ||(J_t - J_f) R||^2 / ||J_f R||^2, exact by Gram matrices; R is 1 (isotropic), a root of the "
        "inputs' covariance (pairs), or of C + (mean - x)(mean - x)^T (differences). The floor is what the singular "
        "values of J_f R leave beyond as many directions as features are active (Eckart and Young): no transcoder of "
        "this L0 gets below, and none need get there. Half-way error: how differently layer and transcoder answer to a "
        "step half-way to another token. Coefficients are in the layer's unit; augmentation matches outputs at the "
        "points of a secant.",
        "## Verdict",
        *(verdict(result, block, kind) for block, kind in _groups(result) if _gained(result, block, kind)),
        "![Jacobian error in pair directions over FVU, with the floor](error_against_fvu.png)",
        "![Response errors over the step's length](responses.png)",
        "*Read with care.* A TopK transcoder jumps where one feature takes another's place, and a Jacobian, which "
        "holds the active features fixed, does not see it: towards small steps response errors grow past the Jacobian "
        "error. Only secants and augmentation see features change on the way.",
        "## Numbers",
        tables(result),
    ]
    if any(t.repeated for t in result.trained):
        parts.append("![Which features write the output at the passage](passage_features.png)")
    if lines:
        parts += ["## Beside the line on which cosine goes with FVU", *lines]
    return "\n\n".join(parts) + "\n"


def plane_figure(result: RealLayersResult) -> Figure:
    """Pair errors over FVU, a panel a block; of the first kind."""
    kind, read = result.config.kinds[0], jacobian_error("data")
    planes = []
    for block in result.config.blocks:
        points = {arm.name: _point(result, block, kind, arm, read) for arm in _arms(result, block, kind)}
        unmatched = [
            (value_of(result, block, other, NONE, fvu), value_of(result, block, other, NONE, read), other.name)
            for other in [kind, *result.config.line]
            if of_arm(result, block, other, NONE)
        ]
        of = of_arm(result, block, kind, NONE)
        floor = float(np.mean([t.floor["data"] for t in of]))
        planes.append(Plane(f"block {block}, {kind.name}", points, unmatched, floor))
    return error_against_fvu(planes, "relative Jacobian error, pair directions")


def _point(result: RealLayersResult, block: int, kind: Kind, arm: Arm, read: Read) -> Point:
    """FVU and error, with the intervals of what they are changed by against no term."""
    ends = []
    for of in (fvu, read):
        baseline = value_of(result, block, kind, NONE, of)
        change = Interval(mean=0, low=0, high=0, n=0) if arm == NONE else gain_in(result, block, kind, arm, of).change
        ends.append(tuple(baseline * (1 + end) for end in _ends(change)))
    return Point(*ends)


def responses_figure(result: RealLayersResult) -> Figure:
    """Errors over the step's length, a panel a block and kind of direction; of the first kind."""
    kind = result.config.kinds[0]
    titles: dict[Directions, tuple[str, str]] = {
        "difference": ("towards another token", "part of the way"),
        "data": ("along pairs of tokens", "part of the pair's difference / sqrt 2"),
        "isotropic": ("isotropic", "step, in units of the rms coordinate"),
    }
    panels = []
    for block in result.config.blocks:
        for directions, (title, xlabel) in titles.items():
            curves = {}
            for arm in _arms(result, block, kind):
                reads = [response_error(directions, d) for d in result.config.distances]
                errors = [value_of(result, block, kind, arm, read) for read in reads]
                curves[arm.name] = Curve(result.config.distances, errors)
            panels.append(Panel(f"block {block}, {title}", curves, xlabel, "relative response error"))
    return curves_figure(panels, columns=3)


def passage_figure(result: RealLayersResult) -> Figure:
    """The first seed's features at the passage, with and without repetition."""
    panels = {}
    for t in result.trained:
        if t.passage is None or t.seed != result.config.seed:
            continue
        if t.repeated or t.arm == NONE:
            title = f"block {t.block}, {t.arm.name}\n{'repeated' if t.repeated else 'not repeated'}"
            if t.kind == result.config.kinds[0]:
                p = t.passage
                panels[title] = PassageFeatures(p.rate_elsewhere, p.carried, p.share)
    return passage_features(panels, RARE)


def write_report(result: RealLayersResult, out: Path) -> list[Path]:
    """Writes report.md and the figures into `out`; returns their paths. Raises ResultError where it cannot."""
    figures = {"error_against_fvu.png": plane_figure, "responses.png": responses_figure}
    if any(t.repeated for t in result.trained):
        figures["passage_features.png"] = passage_figure
    for name, draw in figures.items():
        try:
            out.mkdir(parents=True, exist_ok=True)
            save_figure(draw(result), out / name, source=fingerprint(result))
        except OSError as error:
            raise ResultError(f"{out / name} cannot be written ({error.strerror}): choose another --out") from error
    write_text(out / "report.md", page(result))
    return [out / "report.md", *(out / name for name in figures)]


def _groups(result: RealLayersResult) -> list[tuple[int, Kind]]:
    return [
        (block, kind)
        for block in result.config.blocks
        for kind in [*result.config.kinds, *result.config.line]
        if of_arm(result, block, kind, NONE)
    ]


def _arms(result: RealLayersResult, block: int, kind: Kind, *, repeated: bool = False) -> list[Arm]:
    arms = [*result.config.arms, *(result.config.passage.arms if result.config.passage is not None else ())]
    return [arm for arm in dict.fromkeys(arms) if of_arm(result, block, kind, arm, repeated=repeated)]


def _gained(result: RealLayersResult, block: int, kind: Kind) -> list[Arm]:
    return [arm for arm in _arms(result, block, kind) if arm != NONE]


def _below_0(change: Interval) -> bool:
    return change.high is not None and change.high < 0


def _ends(of: Interval) -> tuple[float, float, float]:
    return of.mean, of.mean if of.low is None else of.low, of.mean if of.high is None else of.high


def _percent(of: Interval) -> str:
    ends = "" if of.low is None or of.high is None else f" [{100 * of.low:+.1f}, {100 * of.high:+.1f}]"
    return f"{100 * of.mean:+.1f} %{ends}"


def _mean_text(values: Sequence[float | None]) -> str:
    numbers = [v for v in values if v is not None]
    return f"{np.mean(numbers):.3f}" if numbers else "-"


def line_of(trained: Trained, result: RealLayersResult) -> str:
    """A run in a line, as it ends."""
    at = f", passage's own {trained.passage.share:.2f}" if trained.passage is not None else ""
    pair, half = value(result, trained, jacobian_error("data")), value(result, trained, response_error("difference"))
    return (
        f"{trained.run.name}: FVU {value(result, trained, fvu):.4f}, Jacobian error {pair:.3f} (pairs), half-way "
        f"{half:.3f}{at}"
    )
