"""The command `faithfulness reproduce`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from pydantic import ValidationError

from faithfulness_plugin.cli.options import bad_option
from faithfulness_plugin.cli.terminal import Lines, fail, show
from faithfulness_plugin.messages import one_line, say

if TYPE_CHECKING:  # at run time the command imports them
    from faithfulness_plugin.benchmarks.note.absolute_value.schema import AbsoluteValueResult, ExperimentConfig, Run

QUICK_STEPS = 1200


def reproduce(
    out: Annotated[Path | None, typer.Option(help="Folder for the result [default: out/reproduce]")] = None,
    seeds: Annotated[int | None, typer.Option(help="Seeds per condition [default: 10]")] = None,
    seed: Annotated[int, typer.Option(help="The first seed")] = 0,
    quick: Annotated[bool, typer.Option("--quick", help=f"One seed, {QUICK_STEPS} steps: a look only")] = False,
    d_in: Annotated[int, typer.Option(help="Width of the layer y = |x|")] = 16,
    d_sae: Annotated[int, typer.Option(help="Features of the transcoder")] = 64,
    density: Annotated[float, typer.Option(help="Probability that a coordinate is not 0")] = 0.1,
    repeat_frac: Annotated[float, typer.Option(help="Probability that a row is the point p")] = 0.05,
    n_ones: Annotated[int, typer.Option(help="Ones in p")] = 3,
    architecture: Annotated[
        str, typer.Option(help="How it is kept sparse: standard, topk, batch_topk or jumprelu")
    ] = "standard",
    sparsity_coefficient: Annotated[float, typer.Option(help="standard: weight of the tanh penalty")] = 0.2,
    k: Annotated[float, typer.Option(help="topk, batch_topk: features active per row")] = 2.0,
    l0_coefficient: Annotated[float, typer.Option(help="jumprelu: weight of the L0 penalty")] = 0.1,
    n_steps: Annotated[int | None, typer.Option(help="Optimizer steps [default: 4000]")] = None,
    jobs: Annotated[
        int | None, typer.Option(help="Runs at a time; -1: one per core [default: -1, with --quick 1]")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a result that is there")] = False,
) -> None:
    """Run the absolute-value experiment: table, figures, result file.

    Trains transcoders of y = |x| without and with a repeated point, with Jacobian matching and with its control.
    Interrupted, it goes on where it stopped when called again; complete, it shows what is there.
    """
    from faithfulness_plugin.benchmarks.note.absolute_value.experiment import open_result
    from faithfulness_plugin.benchmarks.note.absolute_value.schema import ExperimentConfig
    from faithfulness_plugin.results.schema import ResultError

    n_seeds = seeds if seeds is not None else (1 if quick else 10)
    out = out if out is not None else Path("out/quick" if quick else "out/reproduce")
    if n_seeds < 1:
        fail(f"--seeds {n_seeds}: at least one seed is needed", 2)
    jobs = jobs if jobs is not None else (1 if quick else -1)
    if jobs < 1 and jobs != -1:
        fail(f"--jobs {jobs}: pass the number of runs at a time, or -1 for one per core", 2)
    try:
        config = ExperimentConfig(
            architecture=architecture,  # pyright: ignore[reportArgumentType]  pydantic says which there are
            k=k,
            l0_coefficient=l0_coefficient,
            d_in=d_in,
            d_sae=d_sae,
            density=density,
            repeat_frac=repeat_frac,
            n_ones=n_ones,
            sparsity_coefficient=sparsity_coefficient,
            n_steps=n_steps if n_steps is not None else (QUICK_STEPS if quick else 4000),
            seeds=tuple(range(seed, seed + n_seeds)),
        )
        result = open_result(out, config, overwrite=overwrite)
    except ValidationError as error:
        fail(bad_option(error).replace("--seeds", "--seed"), 2)
    except ResultError as error:
        fail(str(error), 2)
    _run_and_report(result, config, out, jobs, again="the same command" + " without --overwrite" * overwrite)


def _run_and_report(
    result: "AbsoluteValueResult", config: "ExperimentConfig", out: Path, jobs: int, again: str
) -> None:
    from faithfulness_plugin.benchmarks.note.absolute_value.experiment import complete
    from faithfulness_plugin.benchmarks.note.absolute_value.report import tables, write_report
    from faithfulness_plugin.results.result_file import RESULT_FILENAME
    from faithfulness_plugin.results.schema import ResultError, read_result

    total = len(result.conditions) * len(config.seeds)
    path = out / RESULT_FILENAME
    if result.complete:
        say(f"{path} is complete; shown again, not run again (--overwrite runs it anew)")
    elif result.runs:
        say(f"{path} holds {len(result.runs)} of {total} runs: going on")
    code = 0
    try:
        with Lines(total, len(result.runs), "runs") as lines:
            result = complete(result, out, n_jobs=jobs, on_run=lambda run: lines.show(_line(run)))
    except KeyboardInterrupt:
        code = 130
    except (ValueError, RuntimeError, OSError) as error:
        say(f"error: a run failed: {one_line(error)}")
        code = 1
    try:
        if code:
            result = read_result(path, type(result))
        written = write_report(result, out)
    except ResultError as error:
        fail(str(error), 1)
    if code:
        say(f"stopped: {path} holds {len(result.runs)} of {total} runs; {again} goes on from there")
    show(tables(result))
    say("written: " + ", ".join(str(p) for p in [path, *written]))
    raise typer.Exit(code)


def _line(run: "Run") -> str:
    return f"{run.condition}, seed {run.seed}: m {run.metrics.m:.3f}, FVU {run.metrics.fvu:.4f} ({run.seconds:.0f} s)"
