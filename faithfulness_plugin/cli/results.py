"""`faithfulness bench compare | card | rerun`: results of methods and of finished transcoders alike."""

import importlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from faithfulness_plugin.cli.running import require_jobs
from faithfulness_plugin.cli.terminal import Lines, fail, show
from faithfulness_plugin.extras import require_extra
from faithfulness_plugin.messages import say

PACKAGES = {
    "faithfulness": ("faithfulness_plugin.benchmarks.suite", "SuiteResult"),
    "faithfulness of artifacts": ("faithfulness_plugin.measure", "ArtifactResult"),
}
"""For each value of a result's field `benchmark`, the package whose modules `compare`, `card` and `rerun` know such
results, and the result's class in its `schema`."""
CARDS = (".png", ".pdf", ".svg", ".html")
FILES = "of `faithfulness bench run` or `faithfulness measure`, or"


def compare(
    results: Annotated[list[Path], typer.Argument(help=f"Result files {FILES} their folders")],
    against: Annotated[str, typer.Option(help="The method or transcoder that the others are held against")],
    methods: Annotated[
        list[str] | None, typer.Option("--method", help="One of the others [default: all of them]; may be repeated")
    ] = None,
    tasks: Annotated[
        list[str] | None, typer.Option("--task", help="A task [default: all in common]; may be repeated")
    ] = None,
    scores: Annotated[
        list[str] | None,
        typer.Option(
            "--score",
            help="A score [default: headline, jacobian_error and fvu; of transcoders, all errors]; may be repeated",
        ),
    ] = None,
    form: Annotated[str, typer.Option("--format", help="markdown, latex or csv")] = "markdown",
    out: Annotated[Path | None, typer.Option(help="File to write it to, in place of showing it")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON, not as tables")] = False,
) -> None:
    """Show paired differences with 95 % intervals: between methods at the layer's own L0, over the seeds they share;
    between transcoders of a real layer, over the held-out prompts."""
    from faithfulness_plugin.results.schema import write_text
    from faithfulness_plugin.results.tables import FORMATS

    if form not in FORMATS:
        fail(f"--format {form}: choose from {', '.join(FORMATS)}", 2)
    if form == "latex":
        require_extra("bench", "jinja2")
    package, found = _read(results)
    table = importlib.import_module(f"{package}.compare").comparison(
        found, against, arms=methods or (), tasks=tasks or (), scores=scores or ()
    )
    text = table.render(form)
    if out is not None:
        write_text(out, text)
        say(f"written: {out}")
    elif as_json:
        print(json.dumps(table.to_dict(), indent=1))
    elif form == "markdown":
        show(text)
    else:
        print(text, end="")


def card(
    result: Annotated[Path, typer.Argument(help=f"A result file {FILES} its folder")],
    method: Annotated[str, typer.Option(help="Whose card: a method or a transcoder [default: the only one]")] = "",
    against: Annotated[str, typer.Option(help="Another to draw beside it")] = "",
    out: Annotated[Path, typer.Option(help="File to write: .png, .pdf, .svg or .html")] = Path("card.png"),
) -> None:
    """Write one page. Of a method: scores at the layer's own L0, and its sweeps. Of a transcoder: its errors, its
    effects downstream and its deletion curve, beside its references."""
    from faithfulness_plugin.results.arms import arms_of_card
    from faithfulness_plugin.results.open_or_resume import require_writable

    if out.suffix not in CARDS:
        fail(f"--out {out}: let its name end in {', '.join(CARDS)}", 2)
    if out.suffix == ".html":
        require_extra("bench", "markdown_it")
    package, (found,) = _read([result])
    kind, names = _arms(found)
    arms_of_card(kind, method, against, names)
    require_writable(out.parent, "--out")
    importlib.import_module(f"{package}.card").card(found, method, against).write(out)
    say(f"written: {out}")


def rerun(
    result: Annotated[Path, typer.Argument(help=f"A result file {FILES} its folder")],
    trials: Annotated[
        int | None, typer.Option(help="So many trials of a result of methods, spread over it [default: all]")
    ] = None,
    tolerance: Annotated[float, typer.Option(help="Largest difference of a number that counts as agreement")] = 1e-6,
    jobs: Annotated[int, typer.Option(help="Processes at a time, for methods; -1: one per core")] = -1,
    as_json: Annotated[bool, typer.Option("--json", help="Print how they compare as JSON")] = False,
) -> None:
    """Run a result again from what stands in it, and say whether the numbers agree (exit code 0) or not (1)."""
    if trials is not None and trials < 1:
        fail(f"--trials {trials}: at least one", 2)
    require_jobs(jobs, "trials")
    package, (found,) = _read([result])
    again = importlib.import_module(f"{package}.rerun").rerun_of(found, trials)
    experiment, partial = again.experiment, again.partial
    (done, total), now = experiment.progress(partial), partial
    with Lines(total - done, 0, experiment.parts, cost=experiment.work_left(partial)) as lines:
        for grown in lines.follow(experiment, partial, again.run(jobs, lines.tell)):
            now = grown
    agreement = again.agreement(now, tolerance)
    for line in [*(f"note: {note}" for note in agreement.notes), *agreement.disagree[:20]]:
        say(line)
    agree, largest = agreement.n - len(agreement.disagree), f"largest difference {agreement.largest:.3g}"
    if as_json:
        print(json.dumps({"agree": agree, **asdict(agreement)}, indent=1))
    else:
        print(f"{agree} of {agreement.n} {experiment.parts} agree to {tolerance:g}; {largest}")
    raise typer.Exit(int(agree < agreement.n))


def _read(paths: list[Path]) -> tuple[str, list[Any]]:
    """Return the package that knows these results, which must be of one kind, and the results."""
    from faithfulness_plugin.results.schema import read_result

    files = [result_file(path) for path in paths]
    kinds = {_kind(file) for file in files}
    if len(kinds) > 1:
        fail("some results are of methods and some of transcoders: compare results of one kind", 2)
    package, schema = PACKAGES[kinds.pop()]
    return package, [read_result(file, getattr(importlib.import_module(f"{package}.schema"), schema)) for file in files]


def _arms(result: Any) -> tuple[str, list[str]]:
    """Return what an arm of a result is called, and the arms' names."""
    if hasattr(result, "spec"):
        return "method", [method.name for method in result.spec.methods]
    return "transcoder", list(result.config.transcoders)


def _kind(file: Path) -> str:
    try:
        kind = json.loads(file.read_bytes())["benchmark"]
    except (OSError, ValueError, KeyError, TypeError):
        kind = None  # `read_result` says what is wrong
    return kind if kind in PACKAGES else next(iter(PACKAGES))


def result_file(path: Path) -> Path:
    """Find the result file that a path names.

    Args:
        path: the file, or its folder.

    Returns:
        The file; it may not exist.
    """
    from faithfulness_plugin.results.open_or_resume import RESULT_FILENAME

    return path / RESULT_FILENAME if path.is_dir() else path
