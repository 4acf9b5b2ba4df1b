"""Measure finished transcoders again, from what stands in a result."""

from typing import Any

from faithfulness_plugin.errors import UsageError
from faithfulness_plugin.measure.run import Measurement
from faithfulness_plugin.measure.schema import ArtifactResult
from faithfulness_plugin.results.agreement import Rerun
from faithfulness_plugin.transcoders.load import load_each


def rerun_of(result: ArtifactResult, n: int | None = None) -> Rerun[ArtifactResult]:
    """Prepare the rerun of all measurements of a result, which compares numbers relative to their size.

    Args:
        result: the measurements.
        n: None: a part of them cannot be chosen.

    Returns:
        The rerun.

    Raises:
        UsageError: a number is given, or a transcoder is not what it was.
    """
    if n is not None:
        raise UsageError(
            "--trials is for results of methods: leave it out for transcoders, which are all measured again"
        )
    measurement = Measurement(load_each(result.config.transcoders, **result.config.reading))
    measurement.found(result, result.config)
    partial = result.model_copy(update={"complete": False, "layer": None, "measured": []})
    return Rerun(measurement, result, partial, _numbers, relative=True)


def _numbers(result: ArtifactResult) -> dict[str, Any]:
    return {f"{of.name}, {of.role}": of.model_dump() for of in result.measured}
