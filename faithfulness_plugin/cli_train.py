"""The command `faithfulness train`."""

from pathlib import Path
from typing import Annotated

import typer

from faithfulness_plugin.terminal import fail, one_line, say, show


def train(
    config: Annotated[
        Path | None,
        typer.Argument(help="YAML file of settings [default: a 4-bit SmolLM2-135M-Instruct, no hub needed]"),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for transcoders, checkpoints and result")] = Path("out/train"),
    tokens: Annotated[int | None, typer.Option(help="In place of the file's")] = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda, in place of the file's")] = None,
    seed: Annotated[int | None, typer.Option(help="In place of the file's")] = None,
    seeds: Annotated[int | None, typer.Option(help="How many, in place of the file's")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a run that is there")] = False,
) -> None:
    """Train transcoders of a language model's MLPs, with and without Jacobian matching, from a file of settings.

    Prints FVU, L0, Jacobian errors and the loss of the spliced model before and after, and where the time goes; writes
    the transcoders as SAELens loads them, with model cards. Interrupted, the same command goes on from the last
    checkpoint; complete, it shows what is there.
    """
    from faithfulness_plugin.benchmarks.language_model.config import TrainConfigError, make_config, read_config
    from faithfulness_plugin.benchmarks.language_model.report import tables
    from faithfulness_plugin.benchmarks.language_model.train import TRANSCODERS, complete, open_result
    from faithfulness_plugin.benchmarks.result_file import RESULT_FILENAME
    from faithfulness_plugin.benchmarks.schema import ResultError, read_result

    flags = {"tokens": tokens, "device": device, "seed": seed, "seeds": seeds}
    try:
        settings = {} if config is None else read_config(config).model_dump(exclude_unset=True)
        given = {name: value for name, value in flags.items() if value is not None}
        wanted = make_config({**settings, **given}, str(config or "default settings"))
        result = open_result(out, wanted, overwrite=overwrite)
    except (TrainConfigError, ResultError) as error:
        fail(str(error), 2)
    path = out / RESULT_FILENAME
    if result.complete:
        say(f"{path} is complete; shown again, not run again (--overwrite runs it anew)")
    try:
        result = complete(result, out, say, begin_anew=overwrite)
    except TrainConfigError as error:
        fail(str(error), 2)
    except KeyboardInterrupt:
        begun = path.exists() and (there := read_result(path, type(result))).config == wanted and not there.complete
        again = f"the same command{' without --overwrite' * overwrite} goes on from the last checkpoint"
        say(f"stopped; {again}" if begun else "stopped; nothing has been begun, or replaced")
        raise typer.Exit(130) from None
    except (ValueError, RuntimeError, OSError) as error:
        fail(one_line(error), 1)
    show(tables(result))
    say(f"written: {path}, {out / TRANSCODERS}")
