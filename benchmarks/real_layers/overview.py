"""What was run, and in short what every arm reaches, for the docs."""

from collections.abc import Sequence
from itertools import groupby
from statistics import mean

from faithfulness_plugin.benchmarks.real_layers.analysis import Group, groups
from faithfulness_plugin.benchmarks.real_layers.arms import SKIP, Arm
from faithfulness_plugin.benchmarks.real_layers.claims import Claim, claims
from faithfulness_plugin.benchmarks.real_layers.kinds import Kind
from faithfulness_plugin.benchmarks.real_layers.prices import time_ratio
from faithfulness_plugin.benchmarks.real_layers.schema import RealLayersResult
from faithfulness_plugin.measure.relative_errors import fvu, jacobian_error, kl, response_error
from faithfulness_plugin.results import vocabulary
from faithfulness_plugin.results.markdown import interval_text, markdown_table

ERRORS = (fvu, jacobian_error("data"), response_error("difference"), kl)
NAMES = ("FVU", vocabulary.jacobian_error("data"), vocabulary.HALF_WAY_ERROR, "KL")


def overview(result: RealLayersResult) -> str:
    """Format what every arm of the first kind reaches, block by block, with skip alone at other sparsities, and how
    many claims hold.

    Args:
        result: complete or partial, with the spliced model's losses by prompt.

    Returns:
        Markdown.
    """
    tables = [
        part
        for group in groups(result, result.config.kinds[:1])
        for part in (f"**Block {group.name}**", _table(group, result.config.line))
    ]
    return _joined(summary(result), *tables, in_short(result))


def by_kind(result: RealLayersResult) -> str:
    """Format what every arm reaches with every kind, one table a block, and how many claims hold.

    Args:
        result: as of `overview`.

    Returns:
        Markdown.
    """
    tables = []
    for block in result.config.blocks:
        found = [group for group in groups(result) if group.block == block]
        rows = [row for group in sorted(found, key=_by_architecture) for row in _rows_of(group)]
        tables += [f"**Block {block}**", markdown_table(["kind", "arm", "L0", *NAMES], rows)]
    return _joined(summary(result), *tables, in_short(result))


def _joined(*parts: str) -> str:
    return "\n\n".join(filter(None, parts))


def _by_architecture(group: Group) -> tuple[int, float]:
    config = group.result.config
    architectures = [kind.architecture for kind in [*config.kinds, *config.line]]
    return architectures.index(group.kind.architecture), group.kind.sparsity


def _rows_of(group: Group) -> list[list[str]]:
    def l0(arm: Arm) -> str:
        return f"{mean(run.l0 for run in group.runs(arm)):.1f}"

    return [[group.kind.name, _name(arm), l0(arm), *_errors(group, arm)] for arm in _in_order(group)]


def _in_order(group: Group) -> list[Arm]:
    return sorted(group.arms(), key=lambda arm: arm.is_control)


def _table(group: Group, line: Sequence[Kind]) -> str:
    rows = [[_name(arm), *_cells(group, arm)] for arm in _in_order(group)]
    for kind in line:  # of another sparsity
        other = Group(group.result, group.block, kind)
        if kind.architecture == group.kind.architecture and other.has(SKIP):
            rows.append([f"*control:* skip, {kind.name}", *_cells(other, SKIP)])
    return markdown_table(["arm", *NAMES, "time a step, of skip's"], rows)


def _name(arm: Arm) -> str:
    return f"*control:* {arm.name}" if arm.is_control else f"**{arm.name}**" if arm.is_recipe else arm.name


def _cells(group: Group, arm: Arm) -> list[str]:
    ratio = time_ratio(group, arm, SKIP) if group.has(SKIP) else None
    return [*_errors(group, arm), "—" if ratio is None else f"{ratio:.2f}"]


def _errors(group: Group, arm: Arm) -> list[str]:
    return [interval_text(group.error(arm, error), 4 if error is kl else 3) for error in ERRORS]


def in_short(result: RealLayersResult) -> str:
    """Say of how many claims each arm that matches with a skip connection holds, and which it does not.

    Args:
        result: complete or partial.

    Returns:
        A list in Markdown; "" where no arm does.
    """
    lines = []
    for (name, arm), of in groupby(claims(result), key=lambda claim: (claim.group.name, claim.arm)):
        own = list(of)
        held = [claim for claim in own if claim.holds]
        text = f"- Block {name}, {arm.name}: {len(held)} of {len(own)} claims hold"
        text += _listed("; not", [claim for claim in own if claim.holds is False])
        lines.append(text + _listed("; undecided", [claim for claim in own if claim.holds is None]) + ".")
    return "\n".join(lines)


def _listed(label: str, found: list[Claim]) -> str:
    return f"{label}: {'; '.join(claim.text for claim in found)}" if found else ""


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
        f"{c.jacobian_rows} rows of each, the spliced model on {c.spliced_prompts}). Mean ± half of the 95 % interval "
        f"over held-out prompts{' and seeds' * (c.seeds > 1)}."
    )
