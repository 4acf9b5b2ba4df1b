"""Tables of measured sets."""

from collections.abc import Sequence

from faithfulness_plugin.language_model.plan import say_blocks
from faithfulness_plugin.layers.declared_hooks import block_of
from faithfulness_plugin.measure.relative_errors import over_prompts
from faithfulness_plugin.measure.schema import ByPrompt
from faithfulness_plugin.measure.sets.schema import ChangeNumbers, ReplacedNumbers, SetNumbers, SetResult
from faithfulness_plugin.results.schema import Interval
from faithfulness_plugin.results.tables import Table


def tables(result: SetResult) -> str:
    """Format what the sets do together, layer by layer, and what later layers make of changes.

    Args:
        result: complete or partial.

    Returns:
        Markdown.
    """
    if not result.measured:
        return "Nothing is measured.\n"
    parts = [overview(result)] if any(of.replaced for of in result.measured) else []
    parts += [_layers_table(result, of) for of in result.measured]
    if any(of.changes for of in result.measured):
        parts += [_effects_table(result), _dose_table(result)]
    return "\n".join(table.render("markdown") for table in parts)


def overview(result: SetResult) -> Table:
    """Format the predictions with some and all layers replaced.

    Args:
        result: with one set's predictions at least.

    Returns:
        The table.
    """
    rows: list[list[str | Interval | None]] = []
    for of in result.measured:
        for numbers in of.replaced:
            if len(numbers.blocks) > 1 or len(of.blocks) == 1:
                rows.append([of.name, _which(of, numbers), *_predicted(result, numbers)])
        alone = [numbers for numbers in of.replaced if len(numbers.blocks) == 1 and not numbers.errors]
        if alone and len(of.blocks) > 1:
            means = [_mean_alone(result, alone, name) for name in ("ce", "kl", "agreed")]
            rows.append([of.name, f"one (mean of {len(alone)})", *means])
    config, named = result.config, result.config.model_named
    model = result.model if named is None else f"{result.model} (the transcoders name {named})"
    missing = "; ".join(f"{of.name} has none of {say_blocks(of.missing)}" for of in result.measured if of.missing)
    off = max((n.logits_error for of in result.measured for n in of.replaced if n.errors), default=0.0)
    caption = (
        f"{model}, {config.held_out_prompts} held-out prompts of {config.context_size} tokens; 95 % intervals over "
        "prompts (bootstrap). Change of cross-entropy and KL: nats a token, against the model as it is. Top-1: tokens "
        "whose likeliest successor is the same. With error nodes the logits are the model's up to "
        f"{off:.0e} of their rms." + (f" Blocks without a transcoder keep their MLP: {missing}." if missing else "")
    )
    return Table(["set", "layers replaced", "change of CE", "KL", "top-1 agreement"], rows, caption)


def _which(of: SetNumbers, numbers: ReplacedNumbers) -> str:
    if numbers.errors:
        return "all, with error nodes"
    return f"all {len(of.blocks)}" if numbers.blocks == of.blocks else f"{len(numbers.blocks)}, evenly spread"


def _predicted(result: SetResult, of: ReplacedNumbers) -> list[Interval]:
    """Return change of cross-entropy, KL and agreement a token."""
    tokens: ByPrompt = [float(result.tokens)] * len(of.ce)
    change = [ce - clean for ce, clean in zip(of.ce, result.ce_clean, strict=True)]
    return [over_prompts([(sums, tokens)]) for sums in (change, of.kl, of.agreed)]


def _mean_alone(result: SetResult, alone: Sequence[ReplacedNumbers], name: str) -> str:
    clean = sum(result.ce_clean) if name == "ce" else 0.0
    each = [(sum(getattr(of, name)) - clean) / (result.tokens * len(of.ce)) for of in alone]
    return f"{sum(each) / len(each):.3f} ({min(each):.3f} to {max(each):.3f})"


def _layers_table(result: SetResult, of: SetNumbers) -> Table:
    """Format every layer of a set by itself."""
    rows: list[list[str | Interval | None]] = []
    for layer in of.layers:
        alone = of.of([layer.block])
        predicted = [None] * 3 if alone is None else _predicted(result, alone)
        fvu = over_prompts([(layer.error, layer.variance)]) if any(layer.variance) else None
        rows.append([f"{layer.block}", fvu, f"{layer.l0:.1f}", f"{layer.dead_fraction:.2f}", *predicted])
    header = ["block", "FVU", "L0", "dead", "change of CE", "KL", "top-1 agreement"]
    return Table(header, rows, f"{of.name}: each transcoder by itself, and alone in its layer's place.")


def _effects_table(result: SetResult) -> Table:
    """Format what changes of their own size do after the block, the next one, the middle and the last."""
    at = result.config.doses.index(1.0)
    rows = []
    for of in result.measured:
        for change in of.changes:
            places = dict.fromkeys([0, 1, len(change.stages) // 2, len(change.stages) - 1])
            chosen = [change.stages[place] for place in places if place < len(change.stages)]
            text = "; ".join(f"{block_of(s.stage)}: {_number(s.cosine[at])}, {_number(s.error[at])}" for s in chosen)
            rows.append([of.name, f"{change.block}", change.change, _errors(change), text])
    caption = (
        "Cosine and relative error of the change in the residual stream, in the model and with all layers of the set "
        "replaced. input: one token's half-way to another's; feature: what the transcoder's largest feature writes at "
        "that token is taken away from both. Error nodes: both models are alike before the change."
    )
    return Table(["set", "block", "change", "error nodes", "after block: cosine, error"], rows, caption)


def _dose_table(result: SetResult) -> Table:
    """Format effects against their size, averaged over the later blocks."""
    doses = result.config.doses
    rows = []
    for of in result.measured:
        for change in of.changes:
            later = change.stages[1:] or change.stages
            cells = []
            for at in range(len(doses)):
                cosine, error = (_mean([getattr(s, name)[at] for s in later]) for name in ("cosine", "error"))
                cells.append(f"{_number(cosine)}, {_number(error)}")
            rows.append([of.name, f"{change.block}", change.change, _errors(change), *cells])
    caption = (
        "Cosine and relative error, averaged over the blocks after the changed one, against the change's size "
        "(half-way to the other token, and the whole of what the feature writes, are 1)."
    )
    return Table(["set", "block", "change", "error nodes", *(f"{dose:g} times" for dose in doses)], rows, caption)


def _errors(change: ChangeNumbers) -> str:
    return "with" if change.errors else "without"


def _mean(values: Sequence[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return sum(there) / len(there) if there else None


def _number(value: float | None) -> str:
    return "—" if value is None else f"{value:.2f}"
