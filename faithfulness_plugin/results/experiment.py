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
    within: Callable[[float], None] = lambda _: None
    """Receives the work that is done of the next part, in the unit of `Experiment.work_left`."""
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
    """The indent of the result's JSON; None for results of many parts."""

    @abstractmethod
    def fresh(self, config: T_CONFIG) -> T_RESULT:
        """Build the empty result of a config.

        Args:
            config: the settings that decide the numbers.

        Returns:
            A result without parts.
        """

    def found(self, result: T_RESULT, config: T_CONFIG) -> T_RESULT:
        """Adapt a result of this config that was found in the folder, before it is shown or resumed.

        Args:
            result: what stands in the folder.
            config: the settings of now.

        Returns:
            The result to show or to resume.

        Raises:
            UsageError: it cannot be resumed, and its settings do not show that.
        """
        del config
        return result

    @abstractmethod
    def progress(self, result: T_RESULT) -> tuple[int, int]:
        """Count parts.

        Args:
            result: complete or partial.

        Returns:
            How many parts are done, and how many there are.
        """

    @abstractmethod
    def run(self, result: T_RESULT, running: Running) -> Iterator[tuple[T_RESULT, str]]:
        """Run the parts that are missing.

        A first yield with an empty line, after a costly set-up, has the result written before any part is done, so that
        checkpoints in `running.out` belong to it.

        Args:
            result: empty or partial.
            running: how to run this time.

        Yields:
            The result so far and a line about the part, after each part; the caller writes the one and shows the other.
        """

    def failed(self, result: T_RESULT) -> list[str]:
        """List parts that failed and stand in the result as such; a command then exits with 1.

        Args:
            result: complete or partial.

        Returns:
            A line for each of them.
        """
        del result
        return []

    @abstractmethod
    def tables(self, result: T_RESULT) -> str:
        """Format the result's tables as Markdown; those of a partial result say that it is one.

        Args:
            result: complete or partial.

        Returns:
            The tables.
        """

    def page(self, result: T_RESULT) -> str:
        """Write the page that stands beside the result: by default its tables.

        Args:
            result: complete or partial.

        Returns:
            The page as Markdown.
        """
        return self.tables(result)

    def figures(self, result: T_RESULT) -> "Mapping[str, Figure]":
        """Draw the result's figures.

        Args:
            result: complete or partial.

        Returns:
            The figures by file name; none by default.
        """
        return {}

    def work_left(self, result: T_RESULT) -> float:
        """Estimate the work that is left, where parts cost differently: the remaining time is computed from it.

        Args:
            result: complete or partial.

        Returns:
            The work in any unit; by default the number of missing parts.
        """
        done, total = self.progress(result)
        return float(total - done)


def open_result(experiment: Experiment[T_CONFIG, T_RESULT], config: T_CONFIG, out: Path, overwrite: bool) -> T_RESULT:
    """Open the result of a config in a folder, or begin an empty one. Nothing is written.

    Args:
        experiment: what is measured.
        config: the settings that decide the numbers.
        out: the result's folder.
        overwrite: begin an empty one in any case.

    Returns:
        The result, complete, partial or empty.

    Raises:
        UsageError: as `open_or_resume` and `Experiment.found`.
    """
    fresh = experiment.fresh(config)
    result = open_or_resume(out, fresh, overwrite=overwrite)
    return result if result is fresh else experiment.found(result, config)


def run_parts(
    experiment: Experiment[T_CONFIG, T_RESULT], result: T_RESULT, running: Running
) -> Iterator[tuple[T_RESULT, str]]:
    """Run the parts that are missing, and write the result after each.

    Args:
        experiment: what is measured.
        result: empty or partial.
        running: how to run this time.

    Yields:
        The result so far, which stands in the file already, and a line about the part.

    Raises:
        ResultError: the folder cannot be written.
        OSError: it could be written before, and no longer can.
    """
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
    """Run an experiment to its end, or resume it: what a command does, without its output.

    Args:
        experiment: what is measured.
        config: the settings that decide the numbers.
        out: the result's folder.
        overwrite: begin an empty result in any case.
        how: fields of `Running`.

    Returns:
        The complete result.

    Raises:
        UsageError: as `open_result`.
    """
    result = open_result(experiment, config, out, overwrite)
    if not result.complete:
        resumes = not overwrite and (out / RESULT_FILENAME).exists()
        running = Running(out, resumes=resumes, **{"options": experiment.options_class(), **how})
        for grown, _ in run_parts(experiment, result, running):
            result = grown
    return result


def write_report(experiment: Experiment[Any, T_RESULT], result: T_RESULT, out: Path) -> list[Path]:
    """Write the page and the figures beside a result.

    Args:
        experiment: what was measured.
        result: complete or partial.
        out: the result's folder.

    Returns:
        The paths that were written.

    Raises:
        ResultError: one of them cannot be written.
    """
    from faithfulness_plugin.results.figure_file import save_figure

    paths = [out / experiment.page_filename]
    write_text(paths[0], experiment.page(result))
    for name, figure in experiment.figures(result).items():
        save_figure(figure, out / name, source=fingerprint(result))
        paths.append(out / name)
    return paths
