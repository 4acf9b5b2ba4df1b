"""Run an experiment from a command: open or resume, progress, interruption, report, exit code."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import typer

from faithfulness_plugin.cli.terminal import Lines, fail, show_result
from faithfulness_plugin.errors import UsageError
from faithfulness_plugin.messages import one_line, say

if TYPE_CHECKING:  # at run time the command that runs one imports it
    from faithfulness_plugin.results.experiment import Experiment
    from faithfulness_plugin.results.workers import Backend


def run_experiment(
    experiment: "Experiment[Any, Any]",
    config: Any,
    out: Path,
    *,
    overwrite: bool = False,
    as_json: bool = False,
    n_jobs: int = 1,
    backend: "Backend" = "local",
    options: Any = None,
) -> NoReturn:
    """Run what is missing of an experiment, show its tables, and exit with 0, 1 (a part failed) or 130 (interrupted).

    A result that is complete is shown and not run again; a partial one is resumed.

    Args:
        experiment: what is measured.
        config: the settings that decide the numbers.
        out: the result's folder.
        overwrite: begin a new result; the old one stays until the first part of the new one is done.
        as_json: print the result as JSON, and not as tables.
        n_jobs: parts at a time; -1 for one per core.
        backend: where parts run.
        options: what decides no number; None for the experiment's defaults.

    Raises:
        UsageError: the result's folder cannot be used, or a part found that something was given wrongly.
    """
    from faithfulness_plugin.results.experiment import Running, open_result, run_parts, write_report
    from faithfulness_plugin.results.open_or_resume import RESULT_FILENAME

    require_jobs(n_jobs, experiment.parts)
    result = open_result(experiment, config, out, overwrite)
    path, code = out / RESULT_FILENAME, 0
    done, total = experiment.progress(result)
    began = not overwrite and path.exists()
    if result.complete:
        say(f"{path} is complete; shown again, not run again (--overwrite runs it again)")
    elif done:
        say(f"{path} holds {done} of {total} {experiment.parts}: resuming")
    running = Running(out, n_jobs, backend, options or experiment.options_class(), resumes=began)
    if not result.complete:
        try:
            with Lines(total, done, experiment.parts, cost=experiment.work_left(result)) as lines:
                running.note, running.within = lines.tell, lines.within
                for grown in lines.follow(experiment, result, run_parts(experiment, result, running)):
                    result, began = grown, True
        except KeyboardInterrupt:
            code = 130
        except UsageError:
            raise
        except (ValueError, RuntimeError, OSError) as error:
            say(f"error: {one_line(error)}")
            code = 1
    for failure in [*experiment.failed(result), *running.failures]:
        say(f"error: {failure}")
        code = code or 1
    if not began:
        say("stopped; nothing has been begun, or replaced")
        raise typer.Exit(code)
    try:
        written = write_report(experiment, result, out)
    except UsageError as error:  # the experiment has run
        fail(one_line(error), 1)
    show_result(experiment, result, as_json)
    if not result.complete:
        done, again = experiment.progress(result)[0], "the same command" + " without --overwrite" * overwrite
        say(f"stopped: {path} holds {done} of {total} {experiment.parts}; {again} resumes from there")
    say("written: " + ", ".join(str(p) for p in [path, *written]))
    raise typer.Exit(code)


def require_jobs(n_jobs: int, parts: str) -> None:
    """Refuse a number of parts at a time that makes no sense.

    Args:
        n_jobs: the option's value.
        parts: what they are called, for the message.

    Raises:
        UsageError: it is neither positive nor -1.
    """
    if n_jobs < 1 and n_jobs != -1:
        raise UsageError(f"--jobs {n_jobs}: pass the number of {parts} at a time, or -1 for one per core")
