"""The command `faithfulness bench ensemble`."""

from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError

from faithfulness_plugin.cli.terminal import Lines, fail, show
from faithfulness_plugin.messages import one_line, say


def ensemble(
    out: Annotated[Path, typer.Option(help="Folder for the result")] = Path("out/ensemble_speed"),
    models: Annotated[int, typer.Option(help="Transcoders that are trained, both ways")] = 30,
    steps: Annotated[int, typer.Option(help="Steps of each")] = 200,
    rounds: Annotated[int, typer.Option(help="Times that every arm is run")] = 5,
    threads: Annotated[int | None, typer.Option(help="CPU threads of torch [default: torch's own]")] = None,
    seed: Annotated[int, typer.Option(help="The first seed")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a result that is there")] = False,
) -> None:
    """Time the toy ensemble beside a loop of train_transcoder, in one process with the same threads.

    Keep the machine quiet meanwhile.
    """
    import torch

    from faithfulness_plugin.benchmarks.timing.ensemble_speed.report import table, write_report
    from faithfulness_plugin.benchmarks.timing.ensemble_speed.run import complete, open_result
    from faithfulness_plugin.benchmarks.timing.ensemble_speed.schema import EnsembleSpeedConfig
    from faithfulness_plugin.results.result_file import RESULT_FILENAME
    from faithfulness_plugin.results.schema import ResultError

    try:
        config = EnsembleSpeedConfig(
            n_models=models,
            n_steps=steps,
            rounds=rounds,
            seed=seed,
            threads=torch.get_num_threads() if threads is None else threads,
        )
        result = open_result(out, config, overwrite=overwrite)
    except ValidationError as error:
        first = error.errors()[0]
        fail(f"--{str(first['loc'][0]).removeprefix('n_')}: {first['msg']}", 2)
    except ResultError as error:
        fail(str(error), 2)
    path = out / RESULT_FILENAME
    if result.complete:
        say(f"{path} is complete; shown again, not run again (--overwrite runs it anew)")
    try:
        if not result.complete:
            with Lines(1, 0, "benchmark") as lines:
                result = complete(result, out, lines.note)
        written = write_report(result, out)
    except KeyboardInterrupt:
        say("stopped: nothing was measured to the end; the same command measures all of it")
        raise typer.Exit(130) from None
    except (ValueError, RuntimeError, OSError) as error:
        fail(one_line(error), 1)
    show(table(result))
    say("written: " + ", ".join(str(p) for p in [path, *written]))
