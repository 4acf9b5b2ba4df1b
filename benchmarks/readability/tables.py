"""Tables of the experiment on readability, a line an arm."""

from faithfulness_plugin.benchmarks.readability.analysis import COLUMNS, Group, groups
from faithfulness_plugin.benchmarks.readability.schema import LayerContext, ReadabilityResult
from faithfulness_plugin.benchmarks.real_layers.arms import NONE, SKIP, Arm
from faithfulness_plugin.metrics.readability.firing_rates import QUANTILES
from faithfulness_plugin.results.intervals import interval
from faithfulness_plugin.results.markdown import interval_text, markdown_table
from faithfulness_plugin.results.schema import Interval

WHAT = (
    "Of each arm's features: how many are dead, or dense (fire on more than a tenth of the rows), how rare they are, "
    "how many read and write what another one does, how well the token alone and with the two before it predicts their "
    "activation on held-out rows, how much more alike their top contexts are than random ones, how many features a "
    "first letter takes, and at what share of the words that a probe reads these are silent, or another feature says "
    "the letter instead (absorbed)."
)


def tables(result: ReadabilityResult) -> str:
    """Format all tables.

    Args:
        result: complete or partial.

    Returns:
        Markdown.
    """
    parts = ["# Does matching cost readability?", *([] if result.complete else ["PARTIAL."]), WHAT]
    found = groups(result)
    parts += [differences(group) for group in found]
    parts += ["![Firing rates, and R² from token and neighbours, by arm](readability.png)"] if found else []
    for group in found:
        parts += [f"## {_title(group)}", _features(group), _caption(group)]
        parts += ["Quantiles of log10 firing rate, live features:", _quantiles(group)]
        if any(group.pairs(arm, reference) for arm in group.arms for reference in (NONE, SKIP)):
            parts += [_matched_caption(group), _matched(group)]
    return "\n\n".join(parts) + "\n"


def overview(result: ReadabilityResult) -> str:
    """Format the tables of features alone, for the docs.

    Args:
        result: complete.

    Returns:
        Markdown without headings.
    """
    found = groups(result)
    parts = [WHAT, *(differences(group) for group in found)]
    for group in found:
        parts += [f"**{_title(group)}**", _features(group), _caption(group)]
    return "\n\n".join(parts) + "\n"


def _title(group: Group) -> str:
    return group.name[0].upper() + group.name[1:]


def differences(group: Group) -> str:
    """Say in one sentence which arms differ from skip alone by more than their interval.

    Args:
        group: the transcoders.

    Returns:
        The sentence, in numbers.
    """
    arms = [arm for arm in group.arms if arm != SKIP]
    if SKIP not in group.arms or not arms:
        return f"{group.name}: there is no arm to compare with skip alone.".capitalize()
    different, same = [], []
    for arm in arms:
        found = []
        for column in COLUMNS:
            change = group.change(arm, column)
            if change is not None and _excludes_zero(change):
                found.append(f"{column.name} {change.mean:+.3f} ({change.low:+.3f} to {change.high:+.3f})")
        if found:
            different.append(f"{arm.name}: {', '.join(found)}")
        else:
            same.append(arm.name)
    if not different:
        return f"Against skip alone ({group.name}), no arm differs by more than its 95 % interval: {'; '.join(same)}."
    none = f"; and these in no column: {'; '.join(same)}" if same else ""
    start = f"Against skip alone ({group.name}), these arms differ by more than their 95 % interval"
    return f"{start}: {'; '.join(different)}{none}."


def _excludes_zero(change: Interval) -> bool:
    return change.low is not None and change.high is not None and (change.low > 0 or change.high < 0)


def _features(group: Group) -> str:
    header = ["arm", *(column.name for column in COLUMNS)]
    rows = [[arm.name, *(_text(group.mean(arm, column)) for column in COLUMNS)] for arm in group.arms]
    return markdown_table(header, rows)


def _caption(group: Group) -> str:
    result, layer = group.result, group.result.layer(group.block)
    config = result.config
    seeds = {seed for arm in group.arms for seed in group.of(arm)}
    over = "features (one seed)" if len(seeds) == 1 else f"{len(seeds)} seeds and features"
    return (
        f"{result.model}, {layer.rows:,} tokens of {layer.prompts:,} prompts that nothing was trained on; mean ± half "
        f"of the 95 % interval over {over}, a bootstrap that draws both (letters for the last three columns). "
        f"Predictions and contexts: features that fire {config.least_firings} times or more, R² below 0 as 0. "
        f"Near-duplicates: within {config.duplicate_radius:g} of two features' typical distance. "
        f"Random contexts have a mean cosine of {layer.random_cosine:.3f}. {_probes(layer, result)}"
    )


def _probes(layer: LayerContext, result: ReadabilityResult) -> str:
    """Say how well first letters can be read off the layer's output at all."""
    config = result.config
    good = layer.letters(config)
    known = [f1 for f1 in layer.probe_f1 if f1 is not None]
    said = (
        f"First letters of {layer.words:,} words: linear probes of the layer's output are right at "
        f"{layer.probe_accuracy:.2f} of the test words (chance {layer.probe_chance:.2f}), with a mean F1 of "
        f"{sum(known) / max(1, len(known)):.2f}; {len(good)} letters have {config.probe_f1:g} or more, in "
        f"{config.least_words} words or more"
    )
    if len(good) < config.least_letters:
        return (
            f"{said}, too few: the layer hardly writes the first letter, and splitting and absorption say nothing here."
        )
    return (
        f"{said}, and these count. What a skip connection says of a letter no feature can absorb: read absorbed beside "
        "silent."
    )


def _quantiles(group: Group) -> str:
    header = ["arm", *(f"{100 * q:g} %" for q in QUANTILES)]
    rows = []
    for arm in group.arms:
        each = [of.log10_rate_quantiles for of in group.of(arm).values() if of.log10_rate_quantiles]
        cells = [interval_text(interval(values), 2) for values in zip(*each, strict=True)]
        rows.append([arm.name, *(cells or ["—"] * len(QUANTILES))])
    return markdown_table(header, rows)


def _matched_caption(group: Group) -> str:
    least = group.result.config.matched_cosine
    return (
        f"Shared features: the share of the live features of no term, and of skip alone, whose partner (one to one, "
        f"Hungarian method) has a decoder cosine above {least:g}, beside the same arm of the next seed in brackets; "
        "log10 of the partner's energy E[a²]‖W_dec‖² over the feature's own; and what the skip connection carries: of "
        "the layer's output, and its energy as a part of the transcoder's output energy."
    )


def _matched(group: Group) -> str:
    header = ["arm", "kept of no term", "their energy, log10 ratio", "kept of skip", "energy of these, log10 ratio"]
    header += ["skip carries, of the layer", "skip's energy, of the output"]
    rows = []
    for arm in group.arms:
        cells = []
        for reference in (NONE, SKIP):
            kept = _text(group.kept(arm, reference))
            cells.append(f"({kept})" if arm == reference and kept != "—" else kept)
            cells.append("—" if arm == reference else _text(group.energy_ratio(arm, reference)))
        rows.append([arm.name, *cells, *_skip(group, arm)])
    return markdown_table(header, rows)


def _skip(group: Group, arm: Arm) -> list[str]:
    runs = list(group.of(arm).values())
    each = ([of.skip_carried for of in runs], [of.skip_of_output for of in runs])
    known = [[value for value in values if value is not None] for values in each]
    return [interval_text(interval(values), 3) if values else "—" for values in known]


def _text(value: Interval | None) -> str:
    return "—" if value is None else interval_text(value, 3)
