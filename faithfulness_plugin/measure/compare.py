"""Paired differences between finished transcoders of one layer, over the prompts that they share."""

from collections.abc import Sequence

import numpy as np

from faithfulness_plugin.differences import differences
from faithfulness_plugin.errors import UsageError
from faithfulness_plugin.measure.relative_errors import over_prompts
from faithfulness_plugin.measure.report import ERRORS, layer_of
from faithfulness_plugin.measure.schema import ArtifactNumbers, ArtifactResult
from faithfulness_plugin.results.arms import arms_by_name, require_known
from faithfulness_plugin.results.schema import Interval
from faithfulness_plugin.results.tables import Table

KIND = "transcoder"


def comparison(
    results: Sequence[ArtifactResult],
    against: str,
    *,
    arms: Sequence[str] = (),
    scores: Sequence[str] = (),
    tasks: Sequence[str] = (),
) -> Table:
    """Compare transcoders with one of them, paired by prompt.

    Args:
        results: of one layer.
        against: the transcoder that the others are compared with.
        arms: names of transcoders; none for all.
        scores: names of `ERRORS`; none for all.
        tasks: none: only methods are measured at tasks.

    Returns:
        Differences, with 95 % intervals over prompts.

    Raises:
        UsageError: results of other layers, rows or texts, or names that the results do not have.
    """
    if tasks:
        raise UsageError("--task is for results of methods: leave it out for transcoders, which have no tasks")
    found, chosen = _all(results), list(scores) or list(ERRORS)
    require_known(KIND, [against, *arms], list(found))
    require_known("score", chosen, list(ERRORS))
    rows = [
        [name, *(_difference(score, found[name], found[against], results[0]) for score in chosen)]
        for name in arms or [name for name in found if name != against]
    ]
    caption = (
        f"Difference to {against}, paired by prompt: mean and 95 % interval (bootstrap) over the held-out prompts. "
        "Negative is better. Intervals leave out how trainings differ from each other."
    )
    return Table(["transcoder", *chosen], rows, caption)


def paired_differences(result: ArtifactResult, pairs: Sequence[tuple[str, str]]) -> Table:
    """Compare the two transcoders of each pair, such as those of one seed with and without matching.

    Args:
        result: the measurements.
        pairs: names of transcoders.

    Returns:
        Each first one's errors less the second one's, with 95 % intervals over prompts.
    """
    tables = [comparison([result], against, arms=[name]) for name, against in pairs]
    rows = [[f"{name} less {against}", *of.rows[0][1:]] for (name, against), of in zip(pairs, tables, strict=True)]
    caption = "Differences, paired by prompt: mean and 95 % interval (bootstrap) over the held-out prompts."
    return Table(["transcoders", *tables[0].header[1:]], rows, f"{caption} Negative is better.")


def _all(results: Sequence[ArtifactResult]) -> dict[str, ArtifactNumbers]:
    first = results[0]
    for result in results:
        if result.layer is None:
            raise UsageError("a result holds no measurement: run its command again, which resumes it")
        settings = [{k: v for k, v in of.settings.items() if k != "transcoders"} for of in (first, result)]
        if changed := differences(*settings):
            raise UsageError(
                f"the results measure different things ({changed}): run one of them with the settings of the other"
            )
        if result.layer != first.layer:
            raise UsageError(
                "the results are of different layers, or of one that computes otherwise (another model, text, machine "
                "or version): measure the transcoders in one run, with all of their paths"
            )
    measured = (of for result in results for of in result.measured if of.role == "transcoder")
    return arms_by_name(KIND, ((of.name, {"digest": of.digest}, of) for of in measured))


def _difference(score: str, of: ArtifactNumbers, against: ArtifactNumbers, result: ArtifactResult) -> Interval | None:
    """Return the paired difference; None where both errors would be divided by 0."""
    layer, distances = layer_of(result), result.config.distances
    parts, whole = ERRORS[score](of, layer, distances)
    others, _ = ERRORS[score](against, layer, distances)
    return over_prompts([(np.subtract(parts, others), whole)]) if any(whole) else None
