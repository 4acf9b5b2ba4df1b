"""Tables of measured transcoders."""

from collections.abc import Callable

from faithfulness_plugin.layers.declared_hooks import block_of
from faithfulness_plugin.measure.relative_errors import (
    RelativeError,
    fvu,
    jacobian_error,
    over_prompts,
    response_error,
)
from faithfulness_plugin.measure.schema import ArtifactNumbers, ArtifactResult, ByPrompt, LayerRecord
from faithfulness_plugin.measure.verdict import verdict
from faithfulness_plugin.messages import listed
from faithfulness_plugin.results import vocabulary
from faithfulness_plugin.results.schema import Interval
from faithfulness_plugin.results.tables import Table

ERRORS: dict[str, RelativeError] = {
    "FVU": fvu,
    vocabulary.jacobian_error("isotropic"): jacobian_error("isotropic"),
    vocabulary.jacobian_error("data"): jacobian_error("data"),
    vocabulary.RESPONSE_ERROR: response_error("isotropic"),
    vocabulary.HALF_WAY_ERROR: response_error("difference"),
}
"""Relative errors by name."""

NUMBERS: dict[str, Callable[[ArtifactNumbers], str | None]] = {
    "L0": lambda of: f"{of.l0:.1f}",
    "dead": lambda of: f"{of.dead_fraction:.2f}",
    vocabulary.jacobian_cosine("data"): lambda of: f"{of.jacobian_cosine['data']:.3f}",
    "CE recovered": lambda of: None if of.ce_recovered is None else f"{of.ce_recovered:.3f}",
    "KL": lambda of: f"{of.kl:.3f}",
}


def layer_of(result: ArtifactResult) -> LayerRecord:
    """Return the denominators of relative errors, which exist once anything is measured.

    Args:
        result: the measurements.

    Returns:
        The layer's record.
    """
    assert result.layer is not None
    return result.layer


def relative_error(parts: ByPrompt, whole: ByPrompt) -> Interval | None:
    """Compute a ratio of means with its 95 % interval over prompts.

    Args:
        parts: numerators, prompt by prompt.
        whole: denominators, prompt by prompt.

    Returns:
        The ratio; None where the denominator is 0.
    """
    return over_prompts([(parts, whole)]) if any(whole) else None


def scores(result: ArtifactResult, of: ArtifactNumbers) -> dict[str, str | Interval | None]:
    """Collect the errors and numbers of a transcoder.

    Args:
        result: the measurements.
        of: the transcoder's.

    Returns:
        Scores by name; None where one is undefined.
    """
    from faithfulness_plugin.metrics.next_token import undefined_ce_recovered

    layer, distances = layer_of(result), result.config.distances
    errors = {name: relative_error(*error(of, layer, distances)) for name, error in ERRORS.items()}
    numbers = {name: value(of) for name, value in NUMBERS.items()}
    if undefined_ce_recovered(layer.ce_zero, layer.ce_clean):  # results of earlier versions have a number there
        numbers["CE recovered"] = None
    return {**errors, **numbers}


def tables(result: ArtifactResult) -> str:
    """Format a sentence on each transcoder, the scores, the effects downstream and the deletion curves.

    Args:
        result: complete or partial.

    Returns:
        Markdown.
    """
    if not result.measured:
        return "Nothing is measured.\n"
    parts = [overview(result)]
    if any(of.effects for of in result.measured):
        parts.append(_effects_table(result))
    if any(of.deletion is not None for of in result.measured):
        parts.append(_deletion_table(result))
    verdicts = [f"{verdict(result, name)}.\n" for name in result.config.transcoders if result.of(name) is not None]
    return "\n".join([*verdicts, *(table.render("markdown") for table in parts)])


def overview(result: ArtifactResult) -> Table:
    """Format all transcoders, each with its references below it.

    Args:
        result: with one measurement at least.

    Returns:
        The table.
    """
    from faithfulness_plugin.metrics.next_token import undefined_ce_recovered

    layer, rows = layer_of(result), []
    for of in result.ordered():
        top = [", ".join(f"{error:.2f}" for error in of.top_error)] * bool(of.top)
        rows.append([of.name if of.role == "transcoder" else f"— {of.role}", *scores(result, of).values(), *top])
    tops = ", ".join(str(k) for k in result.measured[0].top)
    header = ["transcoder", *ERRORS, *NUMBERS, *[f"Jacobian error in the first {tops}"] * bool(tops)]
    named = result.config.model_named
    model = result.model if named is None else f"{result.model} (the transcoders name {named})"
    said = [
        f"{model}, {layer.hook_in} to {layer.hook_out}, {result.config.held_out_prompts} held-out prompts of "
        f"{result.config.context_size} tokens; 95 % intervals over prompts (bootstrap).",
        "Jacobian error: relative, in all directions alike and along pairs of inputs"
        + "; in the first singular directions of the layer's Jacobian, each number of them" * bool(tops)
        + ".",
        "Response error: steps of half the rms coordinate, and half-way to another token.",
        "CE recovered: against zeros in the layer's place.",
        "Below each transcoder: its decoder's directions in another order, and the layer's mean."
        * result.config.references,
        undefined_ce_recovered(layer.ce_zero, layer.ce_clean),
        *(f"Left out: {listed(result.config.unmeasured)}." for _ in result.config.unmeasured[:1]),
        *(f"Notice: {notice}." for notice in result.notices),
    ]
    caption = " ".join(filter(None, said))
    return Table(header, rows, caption)


def _effects_table(result: ArtifactResult) -> Table:
    """Format what changes do downstream."""
    rows = []
    for of in result.ordered():
        for change, stages in of.effects.items():
            chosen = [stages[0], *stages[1:2], stages[-1]] if len(stages) > 2 else stages
            text = "; ".join(f"{block_of(s.stage)}: {_number(s.cosine)}, {_number(s.error)}" for s in chosen)
            rows.append([of.name, of.role, change, text])
    caption = (
        "Cosine and relative error of the change in the residual stream, in the model and in the spliced model, after "
        "the layer's own block, the next and the last. input: one token's half-way to another's; feature: what the "
        "transcoder's largest feature writes at that token is taken away."
    )
    return Table(["transcoder", "role", "change", "block: cosine, error"], rows, caption)


def _deletion_table(result: ArtifactResult) -> Table:
    """Format how well attribution ranks features."""
    curves = [(of, of.deletion) for of in result.ordered() if of.deletion is not None]
    sizes = list(dict.fromkeys(m for _, deletion in curves for m in deletion.sizes))
    rows = []
    for of, deletion in curves:
        excess = dict(zip(deletion.sizes, deletion.excess, strict=True))
        rows.append([of.name, of.role, *(f"{excess[m]:.2f}" if m in excess else None for m in sizes)])
    caption = (
        "Deletion curve, less that of random features: (s - s without m features) / |s - s without any|, s the "
        "log-probability of a prompt's last token; features one at one token, ranked by activation times gradient."
    )
    return Table(["transcoder", "role", *(f"m {m}" for m in sizes)], rows, caption)


def _number(value: float | None) -> str:
    return "—" if value is None else f"{value:.2f}"
