"""The result page: verdicts, tables and figures, all from one result file."""

from faithfulness_plugin.benchmarks.real_layers.claims import verdicts
from faithfulness_plugin.benchmarks.real_layers.cosine_line import beside_the_line
from faithfulness_plugin.benchmarks.real_layers.pareto import along_sparsity
from faithfulness_plugin.benchmarks.real_layers.schema import RealLayersResult
from faithfulness_plugin.benchmarks.real_layers.tables import tables

SUPERSEDED = (
    "**Superseded.** These are the numbers of version 0.8: one seed, without skip connections, constant maps, extra "
    "compute or permuted layers as controls, all of which the experiment has now. They stay as "
    "the record of what was measured then."
)


def page(result: RealLayersResult) -> str:
    """Write the result page.

    Args:
        result: complete or partial.

    Returns:
        Markdown.
    """
    lines = [text for block in result.config.blocks if (text := beside_the_line(result, block))]
    parts = [
        "# Jacobian matching on the MLPs of a language model",
        *([SUPERSEDED] if result.config.keep == "derivatives" else []),
        "Transcoders of real MLPs, trained on the same rows for as many tokens, with and without a term that matches "
        "derivatives. Errors are ratios of means on held-out tokens, with 95 % intervals over held-out prompts (a "
        "bootstrap that draws whole prompts, and seeds where there are several); changes are paired, prompt by prompt. "
        "Jacobian errors: ||(J_t - J_f) R||^2 / ||J_f R||^2, exact by Gram matrices; R is 1 (isotropic), a root of the "
        "inputs' covariance (pairs), or of C + (mean - x)(mean - x)^T (differences). The floor is what the singular "
        "values of (J_f - W_skip) R leave beyond as many directions as features are active on the row (Eckart and "
        "Young): no transcoder with these counts, and this skip connection, gets below, and none need get there. It is "
        "given without a skip connection, and with the layer's mean Jacobian as one, to which distances of arms with a "
        "skip connection are taken; that matrix alone is the constant map. "
        "Half-way error: how differently layer and transcoder answer to a step half-way to another token. ΔCE: nats a "
        "token that the transcoder costs in the layer's place; CE recovered: of what zeros cost there. Coefficients "
        "are in the layer's unit; augmentation matches outputs at the points of a secant.",
        *(["## Verdict", said] if (said := verdicts(result)) else []),
        "![Jacobian error in pair directions over FVU, with the floor](error_against_fvu.png)",
        "![Response errors over the step's length](responses.png)",
        "![Response cosines over the step's length](response_cosines.png)",
        "*Read with care.* A TopK transcoder jumps where one feature takes another's place, and a Jacobian, which "
        "holds the active features fixed, does not see it: towards small steps response errors grow, along pairs and "
        "in isotropic directions past the Jacobian error. Only secants and augmentation see features change on the "
        "way.",
        "## Numbers",
        tables(result),
    ]
    if along_sparsity(result):
        parts.append("![Errors over the number of active features](pareto.png)")
    if any(t.repeated for t in result.trained):
        parts.append("![Which features write the output at the passage](passage_features.png)")
    if lines:
        parts += ["## Beside the line on which cosine goes with FVU", *lines]
    return "\n\n".join(parts) + "\n"
