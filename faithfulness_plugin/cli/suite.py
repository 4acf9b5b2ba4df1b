"""The commands of the faithfulness benchmark's track of methods: `faithfulness bench run | list | leaderboard`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from faithfulness_plugin.cli.terminal import Lines, fail, show
from faithfulness_plugin.messages import one_line, say

if TYPE_CHECKING:  # at run time the command that needs them imports them
    from faithfulness_plugin.benchmarks.suite.schema import SuiteResult, TrialRecord

Jobs = Annotated[int, typer.Option(help="Processes at a time; -1: one per core")]


def run(
    methods: Annotated[
        list[str] | None,
        typer.Option("--method", help="A method, a pattern (topk-*), or my_package.my_module:method; may be repeated"),
    ] = None,
    tasks: Annotated[list[str] | None, typer.Option("--task", help="A task; may be repeated")] = None,
    size: Annotated[
        str | None,
        typer.Option(help="quick, standard or full [default: standard]"),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="The size quick: a look only")] = False,
    seeds: Annotated[int | None, typer.Option(help="How many of the frozen seeds [default: the size's]")] = None,
    n_steps: Annotated[int | None, typer.Option(help="Steps of the shipped methods [default: the size's]")] = None,
    time_limit: Annotated[float, typer.Option(help="Seconds that a trial of an outside method may take")] = 600.0,
    out: Annotated[Path | None, typer.Option(help="Folder for the result [default: out/bench/SIZE]")] = None,
    jobs: Jobs = -1,
    backend: Annotated[str, typer.Option(help="local, or ray")] = "local",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a result that is there")] = False,
) -> None:
    """Train methods on layers whose mechanism is known, and score what they kept of it.

    Interrupted, it goes on where it stopped when called again; complete, it shows what is there.
    """
    from pydantic import ValidationError

    from faithfulness_plugin.benchmarks.suite.run import make_spec, open_result
    from faithfulness_plugin.benchmarks.suite.sizes import SIZES
    from faithfulness_plugin.results.schema import ResultError
    from faithfulness_plugin.results.workers import n_workers

    if quick and size is not None:
        fail(f"--quick is --size quick: leave out one of --quick and --size {size}", 2)
    size = "quick" if quick else size or "standard"
    if size not in SIZES:
        fail(f"--size {size}: choose from {', '.join(SIZES)}", 2)
    if backend not in ("local", "ray"):
        fail(f"--backend {backend}: choose local or ray", 2)
    if jobs < 1 and jobs != -1:
        fail(f"--jobs {jobs}: pass the number of processes at a time, or -1 for one per core", 2)
    folder = Path("out/bench") / size if out is None else out
    try:
        spec = make_spec(
            size, tasks=tasks or (), methods=methods or (), n_seeds=seeds, n_steps=n_steps, time_limit=time_limit
        )
        workers = n_workers(jobs, backend)  # pyright: ignore[reportArgumentType]  one of the two
        result = open_result(folder, spec, overwrite=overwrite)
    except ValidationError as error:
        first = error.errors()[0]
        fail(f"--{'-'.join(str(p) for p in first['loc'][:1]).replace('_', '-')}: {first['msg']}", 2)
    except (ValueError, ResultError, ImportError, ConnectionError) as error:
        fail(one_line(error), 2)
    _complete(result, folder, workers, backend, "the same command" + " without --overwrite" * overwrite)


def _complete(result: "SuiteResult", out: Path, workers: int, backend: Any, again: str) -> None:
    from faithfulness_plugin.benchmarks.suite.report import failures, headlines, part_line, task_table
    from faithfulness_plugin.benchmarks.suite.run import complete, part_cost, parts
    from faithfulness_plugin.results.result_file import RESULT_FILENAME
    from faithfulness_plugin.results.schema import ResultError, read_result

    path, total, code = out / RESULT_FILENAME, len(result.spec.trials), 0
    if result.complete:
        say(f"{path} is complete; shown again, not run again (--overwrite runs it anew)")
    elif result.trials:
        say(f"{path} holds {len(result.trials)} of {total} trials: going on")
    n_steps = result.spec.n_steps
    cost = sum(part_cost(part, n_steps) for part in parts(result.missing()))
    try:
        with Lines(total, len(result.trials), "trials", cost=cost or None) as lines:

            def on_part(records: "list[TrialRecord]") -> None:
                lines.show(part_line(records), len(records), part_cost(records, n_steps))

            result = complete(
                result,
                out,
                n_jobs=workers,
                backend=backend,
                on_part=on_part,
                on_death=lambda n: say(f"a worker died; {n} parts are started again"),
            )
    except KeyboardInterrupt:
        code = 130
    except (ValueError, RuntimeError, OSError) as error:
        say(f"error: {one_line(error)}")
        code = 1
    if code:
        try:
            result = read_result(path, type(result))
        except ResultError as error:
            fail(str(error), 1)
        say(f"stopped: {path} holds {len(result.trials)} of {total} trials; {again} goes on from there")
    for line in failures(result):
        say(f"error: {line}")
    for name in result.spec.tasks:
        if any(t.task == name for t in result.trials):
            show(task_table(result, name).render("markdown"))
    if result.complete and len(result.spec.tasks) > 1:
        show(headlines(result).render("markdown"))
    say(f"written: {path}")
    raise typer.Exit(code or int(any(t.failed for t in result.trials)))


def list_all() -> None:
    """What there is to run: tasks, methods, sizes; and what scores mean."""
    from faithfulness_plugin.benchmarks.suite.report import methods_table, scores_table, sizes_table, tasks_table

    for table in (tasks_table(), methods_table(), sizes_table(), scores_table()):
        show(table.render("markdown"))


def leaderboard(
    results: Annotated[list[Path], typer.Argument(help="Complete results; the first one holds the shipped methods")],
    out: Annotated[Path, typer.Option(help="Folder for the page")] = Path("out/leaderboard"),
) -> None:
    """A page from results: what matching buys at matched L0, where it does not help, which control comes close."""
    from faithfulness_plugin.benchmarks.suite.leaderboard import write_leaderboard
    from faithfulness_plugin.benchmarks.suite.schema import SuiteResult
    from faithfulness_plugin.cli.results import read_as
    from faithfulness_plugin.results.schema import CompareError, ResultError

    try:
        written = write_leaderboard([read_as(path, SuiteResult) for path in results], out)
    except (CompareError, ResultError) as error:
        fail(str(error), 2)
    say("written: " + ", ".join(str(path) for path in written))
