"""The result page: the verdict first."""

from faithfulness_plugin.benchmarks.whole_model.schema import WholeModelResult
from faithfulness_plugin.benchmarks.whole_model.tables import tables
from faithfulness_plugin.benchmarks.whole_model.verdict import headline, verdicts


def page(result: WholeModelResult) -> str:
    """Write the result page.

    Args:
        result: complete or partial.

    Returns:
        Markdown.
    """
    parts = ["# Does Jacobian matching make attribution graphs tell the truth?"]
    if result.sets:
        parts += [headline(result)] if headline(result) else []
        parts += [
            "An attribution graph says what follows when a feature is removed or doubled, or a token is another one: "
            "the sum over all paths, with attention patterns, scales of norms, gates and errors held. The truth test "
            "does it to the model itself, whose layers are all its own, and compares. Interventions are drawn from the "
            "run without changes, before any effect is known.",
            "![How predicted effects agree with measured ones](truth.png)",
            "## Arm by arm",
            verdicts(result),
        ]
    parts += ["## Numbers", tables(result)]
    return "\n\n".join(parts).rstrip() + "\n"
