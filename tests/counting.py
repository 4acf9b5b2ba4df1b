"""A tiny experiment, for tests of the protocol: it counts, and can be made to fail or be interrupted."""

from collections.abc import Iterator
from typing import Any, Literal

from pydantic import Field

from faithfulness_plugin.results.experiment import Experiment, Running
from faithfulness_plugin.results.schema import Environment, Record, Result


class CountConfig(Record):
    """Count seeds."""

    seeds: tuple[int, ...] = Field(default=(0, 1), min_length=1, description="one count each")
    step: int = Field(default=1, ge=1, description="what is added")
    kind: Literal["up", "down"] = Field(default="up", description="up or down")
    names: list[str] = Field(default_factory=list, description="what is counted")
    deep: dict[str, Any] = Field(default_factory=dict, description="what only a file gives")


class CountOptions(Record):
    stop_after: int = Field(default=100, description="counts before it is interrupted")
    error: str = Field(default="interrupt", description="interrupt, failure, usage or part")


class CountResult(Result):
    schema_version: Literal[1] = 1
    config: CountConfig
    counts: list[int] = Field(default_factory=list)

    @property
    def settings(self) -> dict[str, Any]:
        return self.config.model_dump()


class Counting(Experiment[CountConfig, CountResult]):
    parts = "counts"
    config_class = CountConfig
    options_class = CountOptions

    def fresh(self, config: CountConfig) -> CountResult:
        return CountResult(complete=False, environment=Environment.here(), config=config)

    def progress(self, result: CountResult) -> tuple[int, int]:
        return len(result.counts), len(result.config.seeds)

    def run(self, result: CountResult, running: Running) -> Iterator[tuple[CountResult, str]]:
        from faithfulness_plugin.errors import UsageError

        for done, seed in enumerate(result.config.seeds[len(result.counts) :]):
            if done == running.options.stop_after:
                if running.options.error == "interrupt":
                    raise KeyboardInterrupt
                if running.options.error == "part":
                    running.failures.append(f"seed {seed} has no count")
                    return
                raise {"failure": RuntimeError, "usage": UsageError}[running.options.error]("cannot count\nany more")
            counts = [*result.counts, seed * result.config.step]
            complete = len(counts) == len(result.config.seeds)
            result = result.model_copy(update={"counts": counts, "complete": complete})
            yield result, f"seed {seed}: {counts[-1]}"

    def tables(self, result: CountResult) -> str:
        return f"counts: {result.counts}" + " PARTIAL" * (not result.complete) + "\n"
