"""Measure finished transcoders again, from what stands in a result."""

from collections.abc import Iterator
from typing import Any

from typing_extensions import override

from faithfulness_plugin.errors import UsageError
from faithfulness_plugin.measure.config import ArtifactConfig
from faithfulness_plugin.measure.report import overview
from faithfulness_plugin.measure.run import complete, read_artifacts
from faithfulness_plugin.measure.schema import ROLES, ArtifactResult
from faithfulness_plugin.results.agreement import Rerun
from faithfulness_plugin.results.experiment import Experiment, Running


class Measurement(Experiment[ArtifactConfig, ArtifactResult]):
    """Finished transcoders measured against their layer."""

    summary = "Measure finished transcoders against their layer."
    parts = "measurements"
    config_class = ArtifactConfig

    @override
    def fresh(self, config: ArtifactConfig) -> ArtifactResult:
        raise NotImplementedError("`measure.run.open_result` makes it")

    @override
    def progress(self, result: ArtifactResult) -> tuple[int, int]:
        return len(result.measured), len(result.config.transcoders) * len(ROLES)

    @override
    def run(self, result: ArtifactResult, running: Running) -> Iterator[tuple[ArtifactResult, str]]:
        yield complete(result, read_artifacts(result.config), running.out, note=running.note), "measured"

    @override
    def tables(self, result: ArtifactResult) -> str:
        return overview(result).render("markdown")


def rerun_of(result: ArtifactResult, n: int | None = None) -> Rerun[ArtifactResult]:
    """Return the rerun of all measurements of a result, which compares numbers relative to their size.

    Raises:
        UsageError: a number is given, or a transcoder is not what it was.
    """
    if n is not None:
        raise UsageError("--trials is for results of methods: of artifacts, all is measured again")
    for artifact in read_artifacts(result.config):
        before = result.of(artifact.name)
        if before is not None and before.digest != artifact.digest:
            raise UsageError(f"{artifact.name} is not what it was when the result was made: bring it back")
    partial = result.model_copy(update={"complete": False, "layer": None, "measured": []})
    return Rerun(Measurement(), result, partial, _numbers, relative=True)


def _numbers(result: ArtifactResult) -> dict[str, Any]:
    return {f"{of.name}, {of.role}": of.model_dump() for of in result.measured}
