"""What was measured, in a few sentences with numbers and links: the README's list."""

from collections.abc import Sequence

from faithfulness_plugin.benchmarks.note.absolute_value.schema import AbsoluteValueResult, ArmSummary
from faithfulness_plugin.benchmarks.real_layers.analysis import Group, difference, gain, groups
from faithfulness_plugin.benchmarks.real_layers.arms import NONE, SKIP, Arm
from faithfulness_plugin.benchmarks.real_layers.cells import percent
from faithfulness_plugin.benchmarks.real_layers.claims import PAIR_ERROR
from faithfulness_plugin.benchmarks.real_layers.config import RECIPES
from faithfulness_plugin.benchmarks.real_layers.prices import time_ratio
from faithfulness_plugin.benchmarks.real_layers.schema import RealLayersResult
from faithfulness_plugin.benchmarks.whole_model.schema import WholeModelResult
from faithfulness_plugin.benchmarks.whole_model.verdict import headline
from faithfulness_plugin.measure.relative_errors import fvu, kl

RECIPE = RECIPES[0]
LONGER = Arm(skip=True, control="extra compute")


def short_claims(
    toy: AbsoluteValueResult,
    beyond: Sequence[AbsoluteValueResult],
    seeds: RealLayersResult,
    whole_model: Sequence[WholeModelResult],
) -> str:
    """Write the list, with links from the repository's root.

    Args:
        toy: the absolute-value experiment at its default setting.
        beyond: the same at other settings.
        seeds: the recipe on real layers, over seeds.
        whole_model: attribution graphs; none where they were not measured.

    Returns:
        Markdown.
    """
    return "\n".join([_toy(toy, beyond), _real_layers(seeds), *filter(None, map(_attribution, whole_model))])


def _toy(toy: AbsoluteValueResult, beyond: Sequence[AbsoluteValueResult]) -> str:
    results = [toy, *beyond]
    without, matched, control = ([_arm(of, name) for of in results] for name in ("repetition", "jacobian", "noise"))
    n = sum(of.emergence.n for of in without[1:])
    elsewhere = [sum(of.emergence.count for of in arm[1:]) for arm in (without, matched, control)]
    return (
        f"- **The toy.** With one input repeated, {without[0].emergence.count} of {without[0].emergence.n} transcoders "
        f"of |x| memorise it. With matching {matched[0].emergence.count} of {matched[0].emergence.n} do, at an FVU of "
        f"{matched[0].metrics['fvu'].mean:.4f} in place of {without[0].metrics['fvu'].mean:.4f}. A control that "
        f"matches outputs at noisy inputs, and no derivative, leaves {control[0].emergence.count} of "
        f"{control[0].emergence.n} here. At {len(beyond)} other settings {elsewhere[0]} of {n} memorise, "
        f"{elsewhere[1]} with matching, {elsewhere[2]} with the control: [all arms](docs/absolute-value.md)."
    )


def _arm(result: AbsoluteValueResult, name: str) -> ArmSummary:
    return next(of for of in result.summary if of.condition == name)


def _real_layers(result: RealLayersResult) -> str:
    c = result.config
    blocks = [_block(group) for group in groups(result, c.kinds[:1]) if group.has(NONE, SKIP, RECIPE, LONGER)]
    return (
        f"- **Layers of a language model** ({result.model.partition(' ')[0]}, {c.seeds} seeds; [every claim and "
        "control](docs/real-layers.md#what-it-buys)). With a skip connection, and derivatives matched along pairs of "
        f"tokens:\n{chr(10).join(blocks)}"
    )


def _block(group: Group) -> str:
    before, skip, both = (f"{group.error(arm, PAIR_ERROR).mean:.2f}" for arm in (NONE, SKIP, RECIPE))
    runs, longer = group.runs(RECIPE), group.runs(LONGER)
    error, price = (percent(gain(group.result, runs, longer, of).change) for of in (PAIR_ERROR, fvu))
    nats = difference(group.result, runs, group.runs(SKIP), kl)
    low, high = nats.drawn
    return (
        f"    - Block {group.block}: the Jacobian error is {before} with neither, {skip} with the skip connection and "
        f"{both} with both. Against the skip connection alone that is {percent(group.change(RECIPE, PAIR_ERROR))}, at "
        f"{percent(group.change(RECIPE, fvu))} FVU, {nats.mean:+.4f} [{low:+.4f}, {high:+.4f}] nats of KL and "
        f"{time_ratio(group, RECIPE, SKIP):.2f} times the time a step; against the skip connection trained for "
        f"{group.result.config.extra_compute:g} times the steps it is {error}, at {price} FVU."
    )


def _attribution(result: WholeModelResult) -> str:
    said = headline(result)
    return f"- {said} [All arms](docs/attribution.md#does-matching-make-graphs-truer)." if said else ""
