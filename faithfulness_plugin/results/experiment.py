"""The protocol of an experiment: a config, a result that grows part by part, and the tables made from it."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from faithfulness_plugin.results.open_or_resume import RESULT_FILENAME, open_or_resume
from faithfulness_plugin.results.schema import Record, Result, ResultError, fingerprint, write_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from faithfulness_plugin.results.workers import Backend

T_CONFIG = TypeVar("T_CONFIG", bound=Record)
T_RESULT = TypeVar("T_RESULT", bound=Result)


class NoOptions(Record):
    """An experiment whose numbers and whose way of running are all in its config."""


@dataclass
class Running:
    """How an experiment is run this time; none of it changes a number."""

    out: Path
    """The folder of the result, for checkpoints beside it."""
    n_jobs: int = 1
    """How many parts run at a time."""
    backend: "Backend" = "local"
    options: Any = field(default_factory=NoOptions)
    """An instance of the experiment's `options_class`."""
    resumes: bool = False
    """Whether a partial result was found, even without a part. If not, checkpoints in `out` are of another run."""
    note: Callable[[str], None] = lambda _: None
    """Receives a line about what is being done."""
    failures: list[str] = field(default_factory=list)
    """Lines about parts that failed while the others went on, and are missing; a command then exits with 1."""


class Experiment(ABC, Generic[T_CONFIG, T_RESULT]):
    """A measurement that a command runs, resumes and shows; its line in `benchmarks/experiments.py` is its only
    registration."""

    parts: ClassVar[str] = "runs"
    """What its result is made of, in the plural, for progress."""
    config_class: ClassVar[type[Any]]
    """A Record whose fields decide the numbers. Its docstring is the command's help, and the fields' descriptions are
    that of the options; it stands in a module that loads pydantic only, for both to be shown at once."""
    options_class: ClassVar[type[Any]] = NoOptions
    """A Record of what does not decide the numbers, such as a folder for caches."""
    page_filename: ClassVar[str] = "table.md"
    """The name of its page."""
    indent: ClassVar[int | None] = 1
    """Of the result's JSON; None for results of many parts."""

    @abstractmethod
    def fresh(self, config: T_CONFIG) -> T_RESULT:
        """Return the empty result of a config."""

    def found(self, result: T_RESULT, config: T_CONFIG) -> T_RESULT:
        """Return the result to show or to resume, given one of this config that was found. Raises UsageError for one
        that cannot be resumed, where its settings do not say it."""
        del config
        return result

    @abstractmethod
    def progress(self, result: T_RESULT) -> tuple[int, int]:
        """Return how many parts are done, and how many there are."""

    @abstractmethod
    def run(self, result: T_RESULT, running: Running) -> Iterator[tuple[T_RESULT, str]]:
        """Run the parts that are missing. After each one yield the result so far and a line about the part; both are
        taken care of by the caller. A first yield with an empty line, after a costly set-up, has the result written
        before any part is done, so that checkpoints in `running.out` belong to it."""

    def failed(self, result: T_RESULT) -> list[str]:
        """Return lines about parts that failed and stand in the result as such; a command then exits with 1."""
        del result
        return []

    @abstractmethod
    def tables(self, result: T_RESULT) -> str:
        """Return the result's tables as Markdown; those of a partial result say that it is one."""

    def page(self, result: T_RESULT) -> str:
        """Return the page that stands beside the result, as Markdown: by default its tables."""
        return self.tables(result)

    def figures(self, result: T_RESULT) -> "Mapping[str, Figure]":
        """Return the result's figures by file name."""
        return {}

    def work_left(self, result: T_RESULT) -> float:
        """Return the work that is left, in any unit, where parts cost differently: the time left is told by it."""
        done, total = self.progress(result)
        return float(total - done)


def open_result(experiment: Experiment[T_CONFIG, T_RESULT], config: T_CONFIG, out: Path, overwrite: bool) -> T_RESULT:
    """Return the result of this config in `out`, or an empty one. Raises UsageError as `open_or_resume` and `found`."""
    fresh = experiment.fresh(config)
    result = open_or_resume(out, fresh, overwrite=overwrite)
    return result if result is fresh else experiment.found(result, config)


def run_parts(
    experiment: Experiment[T_CONFIG, T_RESULT], result: T_RESULT, running: Running
) -> Iterator[tuple[T_RESULT, str]]:
    """Run the parts that are missing; whatever is yielded stands in the file already."""
    begun = running.resumes
    for grown, line in experiment.run(result, running):
        try:
            write_text(running.out / RESULT_FILENAME, grown.model_dump_json(indent=experiment.indent))
        except ResultError as error:
            if begun:  # the folder was not given wrongly: the disk is full, say
                raise OSError(str(error)) from error
            raise
        begun = True
        yield grown, line


def complete(
    experiment: Experiment[T_CONFIG, T_RESULT], config: T_CONFIG, out: Path, *, overwrite: bool = False, **how: Any
) -> T_RESULT:
    """Run an experiment to its end, or resume it, and return the result: what a command does, without its words.

    Args:
        how: fields of `Running`.
    """
    result = open_result(experiment, config, out, overwrite)
    if not result.complete:
        resumes = not overwrite and (out / RESULT_FILENAME).exists()
        running = Running(out, resumes=resumes, **{"options": experiment.options_class(), **how})
        for grown, _ in run_parts(experiment, result, running):
            result = grown
    return result


def write_report(experiment: Experiment[Any, T_RESULT], result: T_RESULT, out: Path) -> list[Path]:
    """Write the page and the figures beside a result; return their paths. Raises ResultError where one cannot be
    written."""
    from faithfulness_plugin.results.figure_file import save_figure

    paths = [out / experiment.page_filename]
    write_text(paths[0], experiment.page(result))
    for name, figure in experiment.figures(result).items():
        save_figure(figure, out / name, source=fingerprint(result))
        paths.append(out / name)
    return paths
