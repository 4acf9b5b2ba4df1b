"""What is said of finished transcoders."""

from collections.abc import Callable

import numpy as np

from faithfulness_plugin.layers.declared_hooks import block_of
from faithfulness_plugin.measure.bootstrap import bootstrap, ratio
from faithfulness_plugin.measure.held_out_schema import ByPrompt, Directions, LayerRecord
from faithfulness_plugin.measure.schema import ROLES, ArtifactNumbers, ArtifactResult
from faithfulness_plugin.metrics.next_token import undefined_ce_recovered
from faithfulness_plugin.results.schema import Interval
from faithfulness_plugin.results.tables import Table

HALF_WAY = 0.5


def layer_of(result: ArtifactResult) -> LayerRecord:
    """What errors are divided by; there once anything is measured."""
    assert result.layer is not None
    return result.layer


def _half_way(result: ArtifactResult, of: ArtifactNumbers, along: Directions) -> tuple[ByPrompt, ByPrompt]:
    place = result.config.distances.index(HALF_WAY)
    return of.response_error[along][place], layer_of(result).response[along][place]


RATIOS: dict[str, Callable[[ArtifactResult, ArtifactNumbers], tuple[ByPrompt, ByPrompt]]] = {
    "FVU": lambda result, of: (of.error, layer_of(result).variance),
    "J error": lambda result, of: (of.jacobian_error["isotropic"], layer_of(result).jacobian["isotropic"]),
    "J error, data": lambda result, of: (of.jacobian_error["data"], layer_of(result).jacobian["data"]),
    "response error": lambda result, of: _half_way(result, of, "isotropic"),
    "response error, half-way": lambda result, of: _half_way(result, of, "difference"),
}
"""Relative errors: sums by prompt, and what they are divided by."""

NUMBERS: dict[str, Callable[[ArtifactNumbers], str | None]] = {
    "L0": lambda of: f"{of.l0:.1f}",
    "dead": lambda of: f"{of.dead_fraction:.2f}",
    "J cosine, data": lambda of: f"{of.jacobian_cosine['data']:.3f}",
    "CE recovered": lambda of: None if of.ce_recovered is None else f"{of.ce_recovered:.3f}",
    "KL": lambda of: f"{of.kl:.3f}",
}


def over_prompts(parts: ByPrompt, whole: ByPrompt) -> Interval | None:
    """A ratio of means, with its 95 % interval over prompts (bootstrap); None where it would be divided by nothing."""
    if not any(whole):
        return None
    return bootstrap([np.array([parts, whole])], lambda sums: ratio(sums).mean(-1))


def scores(result: ArtifactResult, of: ArtifactNumbers) -> dict[str, str | Interval | None]:
    """By name."""
    errors = {name: over_prompts(*parts(result, of)) for name, parts in RATIOS.items()}
    numbers = {name: value(of) for name, value in NUMBERS.items()}
    layer = layer_of(result)
    if undefined_ce_recovered(layer.ce_zero, layer.ce_clean):  # results of before have a number there
        numbers["CE recovered"] = None
    return {**errors, **numbers}


def overview(result: ArtifactResult) -> Table:
    """All transcoders, each with its references below it."""
    layer, rows = layer_of(result), []
    for of in ordered(result):
        top = ", ".join(f"{error:.2f}" for error in of.top_error)
        rows.append([of.name if of.role == "transcoder" else f"— {of.role}", *scores(result, of).values(), top])
    tops = ", ".join(str(k) for k in result.measured[0].top)
    header = ["transcoder", *RATIOS, *NUMBERS, f"J error in the first {tops}"]
    named = result.config.model_named
    model = result.model if named is None else f"{result.model} (the transcoders name {named})"
    caption = (
        f"{model}, {layer.hook_in} to {layer.hook_out}, {result.config.held_out_prompts} held-out prompts of "
        f"{result.config.context_size} tokens; 95 % intervals over prompts (bootstrap). J error: relative, in all "
        "directions and along pairs of inputs; in the first singular directions of the layer's Jacobian, each number "
        "of them. Response error: steps of half the rms coordinate, and half-way to another token. CE recovered: "
        "against zeros in the layer's place. Below each transcoder: its decoder's directions in another order, and "
        f"the layer's mean. {undefined_ce_recovered(layer.ce_zero, layer.ce_clean)}".rstrip()
        + "".join(f" Notice: {notice}." for notice in result.notices)
    )
    return Table(header, rows, caption)


def _number(value: float | None) -> str:
    return "—" if value is None else f"{value:.2f}"


def effects_table(result: ArtifactResult) -> Table:
    """What changes do downstream."""
    rows = []
    for of in ordered(result):
        for kind, stages in of.effects.items():
            chosen = [stages[0], *stages[1:2], stages[-1]] if len(stages) > 2 else stages
            told = "; ".join(f"{block_of(s.stage)}: {_number(s.cosine)}, {_number(s.error)}" for s in chosen)
            rows.append([of.name, of.role, kind, told])
    caption = (
        "Cosine and relative error of the change in the residual stream, in the model and in the spliced model, after "
        "the layer's own block, the next and the last. input: one token's half-way to another's; feature: what the "
        "transcoder's largest feature writes at that token is taken away."
    )
    return Table(["transcoder", "role", "change", "block: cosine, error"], rows, caption)


def deletion_table(result: ArtifactResult) -> Table:
    """How well attribution ranks features."""
    found = [of for of in ordered(result) if of.deletion is not None]
    sizes = list(dict.fromkeys(m for of in found if of.deletion for m in of.deletion.sizes))
    rows = []
    for of in found:
        assert of.deletion is not None
        excess = dict(zip(of.deletion.sizes, of.deletion.excess, strict=True))
        rows.append([of.name, of.role, *(f"{excess[m]:.2f}" if m in excess else None for m in sizes)])
    caption = (
        "Deletion curve, less that of random features: (s - s without m features) / |s - s without any|, s the "
        "log-probability of a prompt's last token; features one at one token, ranked by activation times gradient."
    )
    return Table(["transcoder", "role", *(f"m {m}" for m in sizes)], rows, caption)


def tables(result: ArtifactResult) -> str:
    """All of them."""
    parts = [overview(result), effects_table(result)]
    if any(of.deletion is not None for of in result.measured):
        parts.append(deletion_table(result))
    return "\n".join(table.render("markdown") for table in parts)


def ordered(result: ArtifactResult) -> list[ArtifactNumbers]:
    """Transcoder by transcoder, the references below each."""
    found = [result.of(name, role) for name in result.config.transcoders for role in ROLES]
    return [of for of in found if of is not None]
