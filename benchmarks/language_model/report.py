"""The tables of a training run."""

from faithfulness_plugin.benchmarks.language_model.result import StepCost, TrainResult
from faithfulness_plugin.benchmarks.markdown import markdown_table

COLUMNS = {
    "FVU": "fvu",
    "L0": "l0",
    "dead": "dead_fraction",
    "Jacobian error, data directions": "jacobian_error_data",
    "cosine": "jacobian_cosine_data",
    "isotropic error": "jacobian_error",
    "cosine ": "jacobian_cosine",
    "CE recovered": "ce_recovered",
    "KL": "kl",
}


def evaluation_table(result: TrainResult) -> str:
    """Every transcoder before and after."""
    rows = []
    for transcoder in result.transcoders:
        for when, evaluation in (("before", transcoder.evaluations[0]), ("after", transcoder.evaluations[-1])):
            values = (getattr(evaluation, name) for name in COLUMNS.values())
            numbers = ["-" if value is None else f"{value:.3f}" for value in values]
            rows.append([f"{transcoder.block}", f"{transcoder.coefficient:g}", when, *numbers])
    return markdown_table(["block", "coefficient", "training", *COLUMNS], rows)


def speed_table(result: TrainResult) -> str:
    """Where the time goes; empty where it was not measured."""
    if result.speed is None:
        return ""

    def row(label: str, cost: StepCost) -> list[str]:
        parts = [f"{part:.0f}" for part in (cost.model, cost.layer, cost.transcoder)]
        return [label, *parts, f"{cost.tokens_per_second:.0f}"]

    rows = [row("without the term", result.speed.without), row("with it", result.speed.matched)]
    header = ["microseconds a token", "model", "layer", "transcoder", "tokens a second"]
    return markdown_table(header, rows)


def tables(result: TrainResult) -> str:
    """All that there is to show."""
    text = [f"{result.model}, {result.config.tokens:,} tokens", evaluation_table(result)]
    if result.speed is not None:
        text += [speed_table(result), f"The term slows the run down by a factor of {result.speed.slow_down:.2f}."]
    return "\n\n".join(text)
