"""The command `faithfulness`.

Exits 0, 1 (ran and failed), 2 (bad arguments, with a line that says what to do) or 130 (interrupted).
"""

from pathlib import Path
from typing import Annotated, Any

import typer
import typer.core
from pydantic import ValidationError

from faithfulness_plugin.cli.adapter import adapter
from faithfulness_plugin.cli.artifact import artifact
from faithfulness_plugin.cli.ensemble import ensemble
from faithfulness_plugin.cli.experiment import app as experiments
from faithfulness_plugin.cli.hooks import hooks
from faithfulness_plugin.cli.inspect import inspect
from faithfulness_plugin.cli.inspection import inspection
from faithfulness_plugin.cli.language_model import language_model
from faithfulness_plugin.cli.options import bad_option
from faithfulness_plugin.cli.report import report
from faithfulness_plugin.cli.reproduce import reproduce
from faithfulness_plugin.cli.results import card, compare, rerun
from faithfulness_plugin.cli.scan import scan
from faithfulness_plugin.cli.store import store
from faithfulness_plugin.cli.suite import leaderboard, list_all, run
from faithfulness_plugin.cli.terminal import Lines, fail, show
from faithfulness_plugin.cli.train import train
from faithfulness_plugin.errors import UsageError
from faithfulness_plugin.messages import one_line, say


class Commands(typer.core.TyperGroup):
    """The commands, with the one place where an error becomes a line and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command: 2 for what the user gave wrongly, 130 for an interruption, 1 for a failure."""
        try:
            return super().invoke(ctx)
        except (typer.Exit, typer.Abort):
            raise
        except KeyboardInterrupt:
            say("stopped")
            raise typer.Exit(130) from None
        except (UsageError, ImportError, ConnectionError) as error:  # a missing extra, a cluster that is not there
            fail(one_line(error), 2)
        except ValidationError as error:
            fail(bad_option(error), 2)
        except (ValueError, RuntimeError, OSError) as error:
            fail(one_line(error), 1)


app = typer.Typer(
    cls=Commands,
    help="Mechanistic faithfulness of transcoders: experiments, benchmarks, reports.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

bench = typer.Typer(help="Benchmarks.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(bench, name="bench")
app.add_typer(experiments, name="experiment")
bench.add_typer(inspection, name="inspection")


app.command(epilog="Example: faithfulness reproduce --d-in 20 --n-ones 4 --density 0.08 --seeds 3 --out out/four_ones")(
    reproduce
)


@bench.command(epilog="Example: faithfulness bench speed --size toy --rounds 5 --out out/speed")
def speed(
    out: Annotated[Path, typer.Option(help="Folder for the result")] = Path("out/speed"),
    size: Annotated[
        list[str] | None, typer.Option(help="toy, between, small-lm or large; may be repeated [default: the first 3]")
    ] = None,
    rounds: Annotated[int, typer.Option(help="Times that every arm is run")] = 7,
    slow_rounds: Annotated[
        int | None, typer.Option(help="Of these, with the slowest arms [default: 2 at most]")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda")] = "cpu",
    threads: Annotated[int | None, typer.Option(help="CPU threads of torch [default: torch's own]")] = None,
    seed: Annotated[int, typer.Option(help="Seeds weights, data and the order of the arms")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a result that is there")] = False,
) -> None:
    """Time a matched training step beside other ways to make it.

    Ratios of step times and of peak memory: without the Jacobian term, with it, by torch.func.jvp, by double vjp, by a
    pass per coordinate, and SAELens's own steps. Keep the machine quiet meanwhile. Interrupted, it goes on with the
    size it was at when called again; complete, it shows what is there.
    """
    import torch

    from faithfulness_plugin.benchmarks.timing.speed.experiment import complete, open_result
    from faithfulness_plugin.benchmarks.timing.speed.report import tables, write_report
    from faithfulness_plugin.benchmarks.timing.speed.schema import SpeedConfig
    from faithfulness_plugin.benchmarks.timing.speed.sizes import CPU_SIZES, SIZES
    from faithfulness_plugin.results.result_file import RESULT_FILENAME
    from faithfulness_plugin.results.schema import ResultError

    names = size or list(CPU_SIZES)
    if unknown := [name for name in names if name not in SIZES]:
        fail(f"--size {unknown[0]}: choose from {', '.join(SIZES)}", 2)
    if device == "cuda" and not torch.cuda.is_available():
        fail("--device cuda: torch sees no CUDA device here; leave it out to measure on the CPU", 2)
    try:
        config = SpeedConfig(
            sizes=tuple(SIZES[name] for name in dict.fromkeys(names)),
            rounds=rounds,
            slow_rounds=slow_rounds if slow_rounds is not None else min(2, rounds),
            coordinates=16,
            jacobian_rows=16,
            seed=seed,
            device=device,  # pyright: ignore[reportArgumentType]  pydantic says which there are
            threads=threads if threads is not None else torch.get_num_threads(),
        )
        result = open_result(out, config, overwrite=overwrite)
    except ValidationError as error:
        fail(bad_option(error), 2)
    except ResultError as error:
        fail(str(error), 2)
    if result.complete:
        say(f"{out / RESULT_FILENAME} is complete; shown again, not run again (--overwrite runs it anew)")
    try:
        with Lines(len(config.sizes), len(result.sizes), "sizes") as lines:
            result = complete(result, out, lines.note, lambda of: lines.show(of.size))
        written = write_report(result, out)
    except KeyboardInterrupt:
        say("stopped; the same command without --overwrite goes on with the size that was being measured")
        raise typer.Exit(130) from None
    except (ValueError, RuntimeError, OSError) as error:
        fail(one_line(error), 1)
    show(tables(result))
    say("written: " + ", ".join(str(path) for path in [out / RESULT_FILENAME, *written]))


app.command(
    epilog="Example: faithfulness scan --vary repeat_frac=0.01,0.05 --vary sparsity_coefficient=0.1,0.2 --seeds 3"
)(scan)
bench.command(epilog="Example: faithfulness bench run --quick, or --method my_package.my_module:method")(run)
bench.command(epilog="Example: faithfulness bench artifact --transcoder out/train/transcoders/block10 --layer 10")(
    artifact
)
bench.command("list", epilog="Example: faithfulness bench list")(list_all)
bench.command(epilog="Example: faithfulness bench compare out/bench/quick --against relu_tanh-none --format latex")(
    compare
)
bench.command(epilog="Example: faithfulness bench card out/bench/quick --method relu_tanh-jvp --out card.png")(card)
bench.command(epilog="Example: faithfulness bench rerun out/bench/quick --trials 10")(rerun)
bench.command(epilog="Example: faithfulness bench leaderboard out/bench/standard --out out/leaderboard")(leaderboard)
bench.command(epilog="Example: faithfulness bench ensemble --models 16 --rounds 3 --out out/ensemble_speed")(ensemble)
bench.command(epilog="Example: faithfulness bench adapter sparsify --out out/adapter_overhead")(adapter)
bench.command(epilog="Example: faithfulness bench store --rounds 5 --out out/store_speed")(store)
bench.command("language-model", epilog="Example: faithfulness bench language-model --out out/language_model")(
    language_model
)
app.command(epilog="Example: faithfulness report --results out/scan --out out/report")(report)

app.command(epilog="Example: faithfulness inspect out/train/transcoders/block10_coefficient0.2 --out page.html")(
    inspect
)

app.command(epilog="Example: faithfulness hooks out/train/transcoders/block10_coefficient0.2 --prompts 8")(hooks)

app.command(epilog="Example: faithfulness train settings.yaml --tokens 100000 --out out/mine")(train)


def main() -> None:
    """The console script."""
    app()
