"""The command `faithfulness bench store`."""

from pathlib import Path
from typing import Annotated

import typer

from faithfulness_plugin.cli.terminal import fail, show
from faithfulness_plugin.messages import one_line, say


def store(
    config: Annotated[
        Path | None, typer.Argument(help="YAML file of settings [default: block 10 of a 4-bit SmolLM2-135M-Instruct]")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the result")] = Path("out/store_speed"),
    rounds: Annotated[int | None, typer.Option(help="Of both ways to train, in turns")] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads of torch [default: torch's own]")] = None,
    seed: Annotated[int | None, typer.Option(help="Of text, weights and order")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a result that is there")] = False,
) -> None:
    """Time training from a store of derivatives beside training from the model, and two processes beside one.

    Also how equal their results are. A few minutes; keep the machine quiet meanwhile. Interrupted, it begins anew;
    complete, it shows what is there.
    """
    import torch

    from faithfulness_plugin.benchmarks.timing.store_speed.report import table
    from faithfulness_plugin.benchmarks.timing.store_speed.run import measure, open_result
    from faithfulness_plugin.benchmarks.timing.store_speed.schema import StoreSpeedConfig
    from faithfulness_plugin.language_model.config import TrainConfigError, make_config, read_settings
    from faithfulness_plugin.results.result_file import RESULT_FILENAME
    from faithfulness_plugin.results.schema import ResultError
    from faithfulness_plugin.store import StoreError

    flags = {"rounds": rounds, "threads": threads, "seed": seed}
    try:
        settings = {"threads": torch.get_num_threads(), **({} if config is None else read_settings(config))}
        given = {name: value for name, value in flags.items() if value is not None}
        wanted = make_config({**settings, **given}, str(config or "options"), StoreSpeedConfig)
        result = open_result(out, wanted, overwrite=overwrite)
    except (TrainConfigError, ResultError) as error:
        fail(str(error), 2)
    path = out / RESULT_FILENAME
    if result.complete:
        say(f"{path} is complete; shown again, not run again (--overwrite runs it anew)")
    try:
        result = measure(result, out, say)
    except (TrainConfigError, StoreError) as error:
        fail(str(error), 2)
    except KeyboardInterrupt:
        say("stopped; nothing was written")
        raise typer.Exit(130) from None
    except (ValueError, RuntimeError, OSError) as error:
        fail(one_line(error), 1)
    show(table(result))
    say(f"written: {path}")
