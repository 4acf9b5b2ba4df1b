"""Commands on results of the faithfulness benchmark, of methods and of artifacts alike: `faithfulness bench compare |
card | rerun`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from faithfulness_plugin.cli.terminal import Lines, fail, show
from faithfulness_plugin.messages import one_line, say

if TYPE_CHECKING:  # at run time the command that needs them imports them
    from faithfulness_plugin.benchmarks.suite.schema import SuiteResult
    from faithfulness_plugin.measure.schema import ArtifactResult
    from faithfulness_plugin.results.agreement import Agreement

Given = Annotated[
    Path, typer.Argument(help="A result file of `faithfulness bench run` or `bench artifact`, or its folder")
]


def compare(
    results: Annotated[
        list[Path],
        typer.Argument(help="Result files of `faithfulness bench run` or `bench artifact`, or their folders"),
    ],
    against: Annotated[str, typer.Option(help="The method or transcoder that the others are held against")],
    methods: Annotated[
        list[str] | None, typer.Option("--method", help="Others [default: all]; may be repeated")
    ] = None,
    tasks: Annotated[list[str] | None, typer.Option("--task", help="[default: all in common]; may be repeated")] = None,
    scores: Annotated[
        list[str] | None,
        typer.Option(
            "--score", help="[default: headline, jacobian_error, fvu; of artifacts, all errors]; may be repeated"
        ),
    ] = None,
    form: Annotated[str, typer.Option("--format", help="markdown, latex or csv")] = "markdown",
    out: Annotated[Path | None, typer.Option(help="File to write it to, in place of showing it")] = None,
) -> None:
    """Paired differences with 95 % intervals: between methods at the layer's own L0, over the seeds they share;
    between transcoders of a real layer, over the held-out prompts."""
    from faithfulness_plugin.benchmarks.suite import compare as of_methods
    from faithfulness_plugin.benchmarks.suite.schema import SuiteResult
    from faithfulness_plugin.measure import compare as of_artifacts
    from faithfulness_plugin.measure.schema import ArtifactResult
    from faithfulness_plugin.results.schema import CompareError, ResultError, write_text
    from faithfulness_plugin.results.tables import FORMATS

    if form not in FORMATS:
        fail(f"--format {form}: choose from {', '.join(FORMATS)}", 2)
    try:
        found = [read(path) for path in results]
        suites = [result for result in found if isinstance(result, SuiteResult)]
        artifacts = [result for result in found if isinstance(result, ArtifactResult)]
        if suites and artifacts:
            raise CompareError("some results are of methods and some of artifacts: compare results of one kind")
        if artifacts and tasks:
            raise CompareError("--task is for results of methods: artifacts have none")
        if suites:
            chosen = scores or ("headline", "jacobian_error", "fvu")
            table = of_methods.comparison(suites, against, methods=methods or (), tasks=tasks or (), scores=chosen)
        else:
            table = of_artifacts.comparison(artifacts, against, names=methods or (), scores=scores or ())
        text = table.render(form)
        if out is not None:
            write_text(out, text)
            say(f"written: {out}")
            return
    except (CompareError, ResultError) as error:
        fail(str(error), 2)
    if form == "markdown":
        show(text)
    else:
        print(text, end="")


def card(
    result: Given,
    method: Annotated[str, typer.Option(help="Whose card: a method or a transcoder [default: the only one]")] = "",
    against: Annotated[str, typer.Option(help="Another to draw beside it")] = "",
    out: Annotated[Path, typer.Option(help="File to write: .png, .pdf, .svg or .html")] = Path("card.png"),
) -> None:
    """One page. Of a method: scores at the layer's own L0, and its sweeps. Of a transcoder: its errors, its effects
    downstream and its deletion curve, beside its references."""
    from faithfulness_plugin.benchmarks.suite import card as of_method
    from faithfulness_plugin.benchmarks.suite.schema import SuiteResult
    from faithfulness_plugin.measure import card as of_artifact
    from faithfulness_plugin.results.card_page import CardError
    from faithfulness_plugin.results.schema import ResultError

    try:
        found = read(result)
        if isinstance(found, SuiteResult):
            of_method.write_card(found, method, against, out)
        else:
            of_artifact.write_card(found, method, against, out)
    except (CardError, ResultError) as error:
        fail(str(error), 2)
    say(f"written: {out}")


def rerun(
    result: Given,
    trials: Annotated[
        int | None, typer.Option(help="So many trials of a result of methods, spread over it [default: all]")
    ] = None,
    tolerance: Annotated[float, typer.Option(help="Largest difference of a number that counts as agreement")] = 1e-6,
    jobs: Annotated[int, typer.Option(help="Processes at a time, for methods; -1: one per core")] = -1,
) -> None:
    """Run a result again from what stands in it, and say whether the numbers agree (exit code 0) or not (1)."""
    from faithfulness_plugin.benchmarks.suite.schema import SuiteResult
    from faithfulness_plugin.language_model.config import TrainConfigError
    from faithfulness_plugin.results.schema import ResultError

    if trials is not None and trials < 1:
        fail(f"--trials {trials}: at least one", 2)
    try:
        before = read(result)
        if isinstance(before, SuiteResult):
            agreement = _rerun_methods(before, trials, tolerance, jobs)
        else:
            if trials is not None:
                fail("--trials is for results of methods: of artifacts, all is measured again", 2)
            agreement = _rerun_artifacts(before, tolerance)
    except KeyboardInterrupt:
        say("stopped; nothing was written")
        raise typer.Exit(130) from None
    except (ValueError, TrainConfigError, ResultError) as error:
        fail(one_line(error), 2)
    for note in agreement.notes:
        say(f"note: {note}")
    for line in agreement.disagree[:20]:
        say(line)
    n = len(agreement.disagree)
    print(
        f"{agreement.n - n} of {agreement.n} {agreement.what} agree to {tolerance:g}; largest difference "
        f"{agreement.largest:.3g}"
    )
    raise typer.Exit(int(n > 0))


def _rerun_methods(before: "SuiteResult", n: int | None, tolerance: float, jobs: int) -> "Agreement":
    from faithfulness_plugin.benchmarks.suite.report import part_line
    from faithfulness_plugin.benchmarks.suite.rerun import rerun as run_again
    from faithfulness_plugin.benchmarks.suite.rerun import sample
    from faithfulness_plugin.benchmarks.suite.run import part_cost, parts
    from faithfulness_plugin.results.workers import n_workers

    chosen, n_steps = sample(before, n), before.spec.n_steps
    with Lines(len(chosen), 0, "trials", cost=sum(part_cost(part, n_steps) for part in parts(chosen))) as lines:
        return run_again(
            before,
            chosen,
            n_jobs=n_workers(jobs),
            tolerance=tolerance,
            on_part=lambda records: lines.show(part_line(records), len(records), part_cost(records, n_steps)),
        )


def _rerun_artifacts(before: "ArtifactResult", tolerance: float) -> "Agreement":
    from faithfulness_plugin.measure.rerun import rerun as measure_again

    with Lines(len(before.measured), 0, "measurements") as lines:
        return measure_again(
            before,
            tolerance=tolerance,
            note=lines.tell,
            on_measured=lambda of: lines.show(f"{of.name}, {of.role}"),
        )


def read(path: Path) -> "SuiteResult | ArtifactResult":
    """The result in a file or folder, of either track. Raises ResultError for what is none."""
    from faithfulness_plugin.benchmarks.suite.schema import SuiteResult
    from faithfulness_plugin.measure.schema import ArtifactResult

    try:
        kind = json.loads(_file(path).read_bytes())["benchmark"]
    except (OSError, ValueError, KeyError, TypeError):
        kind = None  # read_as says what is wrong
    return read_as(path, ArtifactResult if kind == ArtifactResult.model_fields["benchmark"].default else SuiteResult)


def read_as(path: Path, schema: Any) -> Any:
    """The result in a file or folder, as the one that is wanted. Raises ResultError for what is none."""
    from faithfulness_plugin.results.schema import read_result

    return read_result(_file(path), schema)


def _file(path: Path) -> Path:
    from faithfulness_plugin.results.result_file import RESULT_FILENAME

    return path / RESULT_FILENAME if path.is_dir() else path
