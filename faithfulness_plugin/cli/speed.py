"""The command `faithfulness bench speed`."""

from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError

from faithfulness_plugin.cli.options import bad_option
from faithfulness_plugin.cli.terminal import Lines, fail, show
from faithfulness_plugin.messages import one_line, say


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
