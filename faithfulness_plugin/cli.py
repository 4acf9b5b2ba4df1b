"""The command `faithfulness`.

Exits 0, 1 (ran and failed), 2 (bad arguments, with a line that says what to do) or 130 (interrupted).
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.markdown import Markdown
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

if TYPE_CHECKING:  # at run time the command that needs them imports them
    from faithfulness_plugin.benchmarks.absolute_value.schema import AbsoluteValueResult, ExperimentConfig, Run

app = typer.Typer(
    help="Mechanistic faithfulness of transcoders: experiments, benchmarks, reports.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

QUICK_STEPS = 1200
WIDE = 150  # columns that the full table needs


@app.callback()
def _commands() -> None:
    """Makes `reproduce` a subcommand also while it is the only one."""


@app.command(epilog="Example: faithfulness reproduce --d-in 20 --n-ones 4 --density 0.08 --seeds 3 --out out/four_ones")
def reproduce(
    out: Annotated[Path | None, typer.Option(help="Folder for the result [default: out/reproduce]")] = None,
    seeds: Annotated[int | None, typer.Option(help="Seeds per condition [default: 5]")] = None,
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
    from faithfulness_plugin.benchmarks.absolute_value.experiment import open_result
    from faithfulness_plugin.benchmarks.absolute_value.schema import ExperimentConfig
    from faithfulness_plugin.benchmarks.schema import ResultError

    n_seeds = seeds if seeds is not None else (1 if quick else 5)
    out = out if out is not None else Path("out/quick" if quick else "out/reproduce")
    if n_seeds < 1:
        _fail(f"--seeds {n_seeds}: at least one seed is needed", 2)
    jobs = jobs if jobs is not None else (1 if quick else -1)
    if jobs < 1 and jobs != -1:
        _fail(f"--jobs {jobs}: pass the number of runs at a time, or -1 for one per core", 2)
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
        first = error.errors()[0]
        option = "".join(f"--{str(part).replace('_', '-')}: " for part in first["loc"][:1]).replace("--seeds", "--seed")
        _fail(option + first["msg"].removeprefix("Value error, "), 2)
    except ResultError as error:
        _fail(str(error), 2)
    _run_and_report(result, config, out, jobs, again="the same command" + " without --overwrite" * overwrite)


def _run_and_report(
    result: "AbsoluteValueResult", config: "ExperimentConfig", out: Path, jobs: int, again: str
) -> None:
    from faithfulness_plugin.benchmarks.absolute_value.experiment import RESULT_FILENAME, complete
    from faithfulness_plugin.benchmarks.absolute_value.report import tables, write_report
    from faithfulness_plugin.benchmarks.schema import ResultError, read_result

    total = len(result.conditions) * len(config.seeds)
    path = out / RESULT_FILENAME
    if result.complete:
        _say(f"{path} is complete; shown again, not run again (--overwrite runs it anew)")
    elif result.runs:
        _say(f"{path} holds {len(result.runs)} of {total} runs: going on")
    code = 0
    try:
        with _Lines(total, len(result.runs)) as lines:
            result = complete(result, out, n_jobs=jobs, on_run=lines.show)
    except KeyboardInterrupt:
        code = 130
    except (ValueError, RuntimeError, OSError) as error:
        _say(f"error: a run failed: {(str(error) or type(error).__name__).splitlines()[0]}")
        code = 1
    try:
        if code:
            result = read_result(path, type(result))
        written = write_report(result, out)
    except ResultError as error:
        _fail(str(error), 1)
    if code:
        _say(f"stopped: {path} holds {len(result.runs)} of {total} runs; {again} goes on from there")
    _show(tables(result))
    _say("written: " + ", ".join(str(p) for p in [path, *written]))
    raise typer.Exit(code)


class _Lines:
    """A progress bar on a terminal, a line per run elsewhere; on stderr."""

    def __init__(self, total: int, done: int) -> None:
        self.total, self.done = total, done
        console = Console(stderr=True)
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self.task = self.bar.add_task("runs", total=total, completed=done)

    def __enter__(self) -> "_Lines":
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def show(self, run: "Run") -> None:
        self.done += 1
        line = (
            f"[{self.done}/{self.total}] {run.condition}, seed {run.seed}: m {run.metrics.m:.3f}, "
            f"FVU {run.metrics.fvu:.4f} ({run.seconds:.0f} s)"
        )
        if self.bar.disable:
            _say(line)
        else:
            self.bar.update(self.task, advance=1, description=line)


def _show(markdown: str) -> None:
    console = Console()
    if console.is_terminal and console.width >= WIDE:
        console.print(Markdown(markdown))
    else:  # a narrow terminal would cut the cells
        print(markdown)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _fail(message: str, code: int) -> NoReturn:
    _say(f"error: {message}")
    raise typer.Exit(code)


def main() -> None:
    """The console script."""
    app()
