"""Paired differences between finished transcoders of one layer, over the prompts that they share."""

from collections.abc import Sequence

import numpy as np

from faithfulness_plugin.differences import differences
from faithfulness_plugin.measure.relative_errors import over_prompts
from faithfulness_plugin.measure.report import ERRORS, layer_of
from faithfulness_plugin.measure.schema import ArtifactNumbers, ArtifactResult
from faithfulness_plugin.nearest import nearest
from faithfulness_plugin.results.schema import CompareError, Interval
from faithfulness_plugin.results.tables import Table


def comparison(
    results: Sequence[ArtifactResult], against: str, *, names: Sequence[str] = (), scores: Sequence[str] = ()
) -> Table:
    """All transcoders (or some) against one; scores are names of `ERRORS`, by default all of them.

    Raises CompareError for results of other layers, rows or texts, and for names that are not there."""
    found = _all(results)
    for kind, given, known in (("transcoder", [against, *names], list(found)), ("score", scores, list(ERRORS))):
        for name in given:
            if name not in known:
                raise CompareError(f"the results have no {kind} {name!r}: {nearest(name, known)}")
    chosen = list(scores) or list(ERRORS)
    rows = [
        [name, *(_difference(score, found[name], found[against], results[0]) for score in chosen)]
        for name in names or [name for name in found if name != against]
    ]
    caption = (
        f"Difference to {against}, paired by prompt: mean and 95 % interval (bootstrap) over the held-out prompts. "
        "Negative is better. Intervals leave out how trainings differ from each other."
    )
    return Table(["transcoder", *chosen], rows, caption)


def in_pairs(result: ArtifactResult, pairs: Sequence[tuple[str, str]]) -> Table:
    """Each pair's first transcoder less its second, as of one seed with matching and without."""
    tables = [comparison([result], against, names=[name]) for name, against in pairs]
    rows = [[f"{name} less {against}", *of.rows[0][1:]] for (name, against), of in zip(pairs, tables, strict=True)]
    caption = "Differences, paired by prompt: mean and 95 % interval (bootstrap) over the held-out prompts."
    return Table(["transcoders", *tables[0].header[1:]], rows, f"{caption} Negative is better.")


def _all(results: Sequence[ArtifactResult]) -> dict[str, ArtifactNumbers]:
    first, found = results[0], dict[str, ArtifactNumbers]()
    for result in results:
        if result.layer is None:
            raise CompareError("a result holds no measurement: run its command again, it goes on")
        settings = [{k: v for k, v in of.settings.items() if k != "transcoders"} for of in (first, result)]
        if changed := differences(*settings):
            raise CompareError(f"the results measure other things ({changed}): run one of them as the other was")
        if result.layer != first.layer:
            raise CompareError(
                "the results are of other layers, or of one that answers otherwise (another model, text, machine or "
                "version): measure the transcoders in one run, with --transcoder given for each"
            )
        for of in result.measured:
            if of.role != "transcoder":
                continue
            if of.name in found and found[of.name].digest != of.digest:
                raise CompareError(f"two results hold a transcoder {of.name}, and not the same one: name one otherwise")
            found[of.name] = of
    return found


def _difference(score: str, of: ArtifactNumbers, against: ArtifactNumbers, result: ArtifactResult) -> Interval | None:
    """The paired difference; None where both errors would be divided by 0."""
    layer, distances = layer_of(result), result.config.distances
    parts, whole = ERRORS[score](of, layer, distances)
    others, _ = ERRORS[score](against, layer, distances)
    return over_prompts([(np.subtract(parts, others), whole)]) if any(whole) else None
