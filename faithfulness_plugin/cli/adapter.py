"""The command `faithfulness bench adapter`."""

from pathlib import Path
from typing import Annotated

import typer

from faithfulness_plugin.cli.terminal import fail, show
from faithfulness_plugin.messages import one_line, say


def adapter(
    library: Annotated[str, typer.Argument(help="sparsify or dictionary_learning, installed beside this package")],
    out: Annotated[
        Path | None, typer.Option(help="Folder for the result [default: out/adapter_overhead/LIBRARY]")
    ] = None,
    rounds: Annotated[int | None, typer.Option(help="Of all arms, in turns")] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads of torch [default: torch's own]")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a result that is there")] = False,
) -> None:
    """Time another library's trainer with and without the Jacobian term, in turns in one process.

    Some minutes; keep the machine quiet meanwhile. Complete, it shows what is there.
    """
    import torch

    from faithfulness_plugin.benchmarks.compatibility.schema import DISTRIBUTIONS
    from faithfulness_plugin.benchmarks.timing.adapter_overhead.report import table
    from faithfulness_plugin.benchmarks.timing.adapter_overhead.run import measure, open_result
    from faithfulness_plugin.benchmarks.timing.adapter_overhead.schema import OverheadConfig
    from faithfulness_plugin.language_model.config import TrainConfigError, make_config
    from faithfulness_plugin.results.result_file import RESULT_FILENAME
    from faithfulness_plugin.results.schema import ResultError

    given = {"library": library, "rounds": rounds, "threads": torch.get_num_threads() if threads is None else threads}
    folder = Path("out/adapter_overhead") / library if out is None else out
    try:
        config = make_config({k: v for k, v in given.items() if v is not None}, "options", OverheadConfig)
        result = open_result(folder, config, DISTRIBUTIONS[library], overwrite=overwrite)
    except (TrainConfigError, ResultError) as error:
        fail(str(error), 2)
    if shown := result.complete:
        say(f"{folder / RESULT_FILENAME} is complete; shown again, not run again (--overwrite runs it anew)")
    try:
        result = measure(result, folder, say)
    except KeyboardInterrupt:
        say("stopped; nothing was written")
        raise typer.Exit(130) from None
    except (ImportError, ValueError, RuntimeError, OSError) as error:
        fail(one_line(error), 1)
    show(table([result]))
    if not shown:
        say(f"written: {folder / RESULT_FILENAME}")
