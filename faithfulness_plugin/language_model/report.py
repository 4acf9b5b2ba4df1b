"""The tables of a training run."""

from itertools import product

from faithfulness_plugin.language_model.config import FEW_BLOCKS
from faithfulness_plugin.language_model.result import Evaluation, Speed, StepCost, TrainedTranscoder, TrainResult
from faithfulness_plugin.metrics.next_token import undefined_ce_recovered
from faithfulness_plugin.results import vocabulary
from faithfulness_plugin.results.intervals import FEW, RANGE, interval
from faithfulness_plugin.results.markdown import interval_text, markdown_table

STAGES = (("before", 0), ("after", -1))
COLUMNS = {
    "FVU": "fvu",
    "L0": "l0",
    "dead": "dead_fraction",
    vocabulary.jacobian_error("data"): "jacobian_error_data",
    vocabulary.jacobian_cosine("data"): "jacobian_cosine_data",
    vocabulary.jacobian_error("isotropic"): "jacobian_error",
    vocabulary.jacobian_cosine("isotropic"): "jacobian_cosine",
    "CE recovered": "ce_recovered",
    "KL": "kl",
}


def tables(result: TrainResult) -> str:
    """Format what was run, the evaluations before and after it, and where the time went.

    Args:
        result: complete or partial.

    Returns:
        Markdown.
    """
    config = result.config
    size = ", ".join(f"{name} {value}" for name, value in config.transcoder.items())
    seeds = f"{config.seeds} seed{'s' * (config.seeds > 1)}"
    if config.seeds > 1:
        seeds += f" (means, {RANGE if config.seeds < FEW else '95 % intervals over seeds'})"
    held_out, counted = config.held_out * config.context_size, sorted({of.rows for of in result.rows})
    count = f"{held_out:,}"
    if counted:
        count = f"{' to '.join(f'{n:,}' for n in dict.fromkeys([counted[0], counted[-1]]))} of {held_out:,}"
    text = [
        f"{result.model}: {config.architecture}, {size}, {config.tokens:,} tokens, {seeds}; measured on {count} "
        f"held-out tokens: {config.held_out} prompts of {config.context_size}, in whole passes of "
        f"{config.prompts_per_pass}."
    ]
    if not result.transcoders:
        return f"{text[0]}\n\nNo transcoder is finished."
    if len(result.blocks) > FEW_BLOCKS:
        text += [
            _over_blocks(result),
            f"Means over {len(result.blocks)} blocks, with the least and the greatest. "
            f"The spliced model was run on {config.spliced(len(result.blocks))} of the prompts. Block by block:",
        ]
    text.append(_evaluation_table(result))
    for block in result.blocks:
        of = next((t.evaluations[-1] for t in result.transcoders if t.block == block), None)
        if of is not None and (why := undefined_ce_recovered(of.ce_zero, of.ce_clean)):
            text.append(f"Block {block}: {why}")
    if result.speed is not None:
        text += [
            _speed_table(result.speed),
            f"The term slows the run down by a factor of {result.speed.slow_down:.2f}.",
        ]
    return "\n\n".join(text)


def _evaluation_table(result: TrainResult) -> str:
    """Format every block and arm before and after, or after alone where there are many: means over seeds with 95 %
    intervals."""
    rows, stages = [], STAGES if len(result.blocks) <= FEW_BLOCKS else STAGES[1:]
    for block, (label, of_arm) in product(result.blocks, _by_arm(result).items()):
        arm = [t for t in of_arm if t.block == block]
        for when, place in stages if arm else ():
            evaluations = [transcoder.evaluations[place] for transcoder in arm]
            numbers = [_over_seeds(evaluations, name) for name in COLUMNS.values()]
            rows.append([f"{block}", label[1], when, *numbers])
    return markdown_table(["block", _arm_header(result), "training", *COLUMNS], rows)


def _over_blocks(result: TrainResult) -> str:
    """Format every arm before and after: means over blocks, with the least and the greatest."""
    rows = []
    for (_, label), arm in _by_arm(result).items():
        for when, place in STAGES:
            numbers = []
            for name in COLUMNS.values():
                found = [v for t in arm if (v := getattr(t.evaluations[place], name)) is not None]
                spread = f"{sum(found) / len(found):.3f} ({min(found):.3f} to {max(found):.3f})" if found else "-"
                numbers.append(spread)
            rows.append([label, when, *numbers])
    return markdown_table([_arm_header(result), "training", *COLUMNS], rows)


def _by_arm(result: TrainResult) -> dict[tuple[float, str], list[TrainedTranscoder]]:
    """Sort transcoders by coefficient and label: two coefficients may look alike in tables."""
    found: dict[tuple[float, str], list[TrainedTranscoder]] = {}
    for t in result.transcoders:
        found.setdefault((t.coefficient, t.label), []).append(t)
    return found


def _arm_header(result: TrainResult) -> str:
    return "arm" if result.config.arms else "coefficient"


def _speed_table(speed: Speed) -> str:
    """Format where the time goes."""

    def row(label: str, cost: StepCost) -> list[str]:
        parts = [f"{part:.0f}" for part in (cost.model, cost.layer, cost.transcoder)]
        return [label, *parts, f"{cost.tokens_per_second:.0f}"]

    rows = [row("without the term", speed.without), row("with it", speed.matched)]
    header = ["microseconds a token", "model", "layer", "transcoder", "tokens a second"]
    return markdown_table(header, rows)


def _over_seeds(evaluations: list[Evaluation], name: str) -> str:
    values = [getattr(evaluation, name) for evaluation in evaluations]
    if name == "ce_recovered" and any(undefined_ce_recovered(of.ce_zero, of.ce_clean) for of in evaluations):
        return "-"  # results of earlier versions have a number there
    return "-" if None in values else interval_text(interval(values), 3)
