"""`faithfulness bench run | list | leaderboard`: the benchmark of methods."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from faithfulness_plugin.cli.terminal import fail, show
from faithfulness_plugin.extras import require_extra
from faithfulness_plugin.messages import say


def run(
    methods: Annotated[
        list[str] | None,
        typer.Option("--method", help="A method, a pattern (topk-*), or my_package.my_module:method; may be repeated"),
    ] = None,
    tasks: Annotated[list[str] | None, typer.Option("--task", help="A task; may be repeated")] = None,
    size: Annotated[str | None, typer.Option(help="quick, standard or full [default: standard]")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="The same as --size quick, for a first look")] = False,
    seeds: Annotated[int | None, typer.Option(help="How many of the frozen seeds [default: the size's]")] = None,
    n_steps: Annotated[int | None, typer.Option(help="Steps of the shipped methods [default: the size's]")] = None,
    time_limit: Annotated[float, typer.Option(help="Seconds that a trial of an outside method may take")] = 600.0,
    out: Annotated[Path | None, typer.Option(help="Folder for the result [default: out/bench/SIZE]")] = None,
    jobs: Annotated[int, typer.Option(help="Processes at a time; -1: one per core")] = -1,
    backend: Annotated[str, typer.Option(help="local, or ray")] = "local",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing result")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON, not as tables")] = False,
) -> None:
    """Train methods on layers whose mechanism is known, and score what they kept of it.

    Called again, it resumes an interrupted run and shows a complete one.
    """
    from faithfulness_plugin.benchmarks.suite.schema import SuiteResult
    from faithfulness_plugin.benchmarks.suite.spec import chosen_parts, make_spec
    from faithfulness_plugin.cli.running import require_jobs, run_experiment
    from faithfulness_plugin.results.open_or_resume import require_resumable

    if quick and size is not None:
        fail(f"--quick is --size quick: leave out one of --quick and --size {size}", 2)
    if backend not in ("local", "ray"):
        fail(f"--backend {backend}: choose local or ray", 2)
    size = "quick" if quick else size or "standard"
    require_jobs(jobs, "trials")
    options: dict[str, Any] = {"tasks": tasks or (), "methods": methods or (), "n_seeds": seeds, "n_steps": n_steps}
    parts = chosen_parts(size, **options, time_limit=time_limit)
    folder = out or Path("out/bench") / size
    require_resumable(folder, SuiteResult, parts.model_dump(exclude={"methods"}), overwrite=overwrite, may_grow="seeds")

    from faithfulness_plugin.benchmarks.suite.experiment import FaithfulnessSuite

    spec = make_spec(size, **options, time_limit=time_limit)
    run_experiment(
        FaithfulnessSuite(), spec, folder, overwrite=overwrite, as_json=as_json, n_jobs=jobs, backend=backend
    )


def list_all(
    as_json: Annotated[bool, typer.Option("--json", help="Print names and strengths as JSON, not as tables")] = False,
) -> None:
    """Show what there is to run (tasks, methods, sizes), and what scores mean."""
    if as_json:
        from faithfulness_plugin.benchmarks.methods.registry import BASELINES
        from faithfulness_plugin.benchmarks.suite.spec import SIZES
        from faithfulness_plugin.benchmarks.tasks.registry import NAMES

        methods = {name: list(method.strengths) for name, method in BASELINES.items()}
        print(json.dumps({"tasks": NAMES, "methods": methods, "sizes": list(SIZES)}, indent=1))
        return
    from faithfulness_plugin.benchmarks.suite.report import methods_table, scores_table, sizes_table, tasks_table

    for table in (tasks_table(), methods_table(), sizes_table(), scores_table()):
        show(table.render("markdown"))


def leaderboard(
    results: Annotated[list[Path], typer.Argument(help="Complete results; the first one holds the shipped methods")],
    out: Annotated[Path, typer.Option(help="Folder for the page")] = Path("out/leaderboard"),
) -> None:
    """Make a page from results: what matching buys at matched L0, where it does not help, which control comes close."""
    from faithfulness_plugin.benchmarks.suite.schema import SuiteResult
    from faithfulness_plugin.cli.results import result_file
    from faithfulness_plugin.results.open_or_resume import require_writable
    from faithfulness_plugin.results.schema import read_result

    require_extra("bench", "markdown_it")
    found = [read_result(result_file(path), SuiteResult) for path in results]
    require_writable(out, "--out")

    from faithfulness_plugin.benchmarks.suite.leaderboard import write_leaderboard

    written = write_leaderboard(found, out)
    say("written: " + ", ".join(str(path) for path in written))
