"""The command `faithfulness train`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from faithfulness_plugin.cli.rows import ExcludeNormsAbove, SkipFirst, SpecialTokens, row_settings
from faithfulness_plugin.cli.terminal import fail, show
from faithfulness_plugin.messages import one_line, say

if TYPE_CHECKING:  # at run time the command imports them
    from faithfulness_plugin.language_model.config import TrainConfig
    from faithfulness_plugin.training.processes import Processes


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
    skip_first: SkipFirst = None,
    special_tokens: SpecialTokens = None,
    exclude_norms_above: ExcludeNormsAbove = None,
    stores: Annotated[
        Path | None,
        typer.Option(help="Folder for stores of rows and derivatives: filled once, then trained from [default: none]"),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a run that is there")] = False,
) -> None:
    """Train transcoders of a language model's MLPs, with and without Jacobian matching, from a file of settings.

    Prints FVU, L0, Jacobian errors and the loss of the spliced model before and after, and where the time goes; writes
    the transcoders as SAELens loads them, with model cards. Interrupted, the same command goes on from the last
    checkpoint; complete, it shows what is there. With --stores the model runs once, and several processes can train
    together: torchrun --nproc-per-node 2 -m faithfulness_plugin train --stores out/stores
    """
    from faithfulness_plugin.language_model.config import TrainConfigError, make_config, read_config
    from faithfulness_plugin.training.processes import ProcessError, joined

    flags = {"tokens": tokens, "device": device, "seed": seed, "seeds": seeds}
    try:
        settings = {} if config is None else read_config(config).model_dump(exclude_unset=True)
        given = {name: value for name, value in flags.items() if value is not None}
        rows = row_settings(skip_first, special_tokens, exclude_norms_above)
        given |= {"rows": {**settings.get("rows", {}), **rows}} if rows else {}
        wanted = make_config({**settings, **given}, str(config or "default settings"))
    except TrainConfigError as error:
        fail(str(error), 2)
    try:
        with joined(wanted.device) as processes:
            if processes.several and stores is None:
                fail(f"{processes.size} processes train from stores of derivatives: pass --stores FOLDER", 2)
            _train(wanted, out, stores, overwrite, processes)
    except ProcessError as error:
        fail(str(error), 1, all_processes=True)


def _train(wanted: "TrainConfig", out: Path, stores: Path | None, overwrite: bool, processes: "Processes") -> None:
    from faithfulness_plugin.language_model.config import TrainConfigError
    from faithfulness_plugin.language_model.report import tables
    from faithfulness_plugin.language_model.train import TRANSCODERS, complete, open_result
    from faithfulness_plugin.language_model.train_stored import complete_from_stores
    from faithfulness_plugin.results.result_file import RESULT_FILENAME
    from faithfulness_plugin.results.schema import ResultError, read_result
    from faithfulness_plugin.store import StoreError
    from faithfulness_plugin.training.processes import AbortedByRankZero, lost_another

    result, problem = None, None
    if processes.first:
        try:
            result = open_result(out, wanted, from_stores=stores is not None, overwrite=overwrite)
        except ResultError as error:
            problem = str(error)
    result, problem = processes.from_first((result, problem))
    if problem is not None or result is None:
        fail(str(problem), 2)
    alone = not processes.first  # what another process meets by itself, it has to tell by itself
    path = out / RESULT_FILENAME
    if result.complete:
        say(f"{path} is complete; shown again, not run again (--overwrite runs it anew)")
    try:
        if stores is None:
            result = complete(result, out, say, begin_anew=overwrite)
        else:
            result = complete_from_stores(result, out, stores, say, processes, begin_anew=overwrite)
    except AbortedByRankZero:
        raise typer.Exit(2) from None
    except (TrainConfigError, StoreError) as error:
        fail(str(error), 2, all_processes=alone)
    except KeyboardInterrupt:
        begun = path.exists() and (there := read_result(path, type(result))).config == wanted and not there.complete
        again = f"the same command{' without --overwrite' * overwrite} goes on from the last checkpoint"
        say(f"stopped; {again}" if begun else "stopped; nothing has been begun, or replaced")
        raise typer.Exit(130) from None
    except (ValueError, RuntimeError, OSError) as error:
        if lost_another(error):
            raise
        fail(one_line(error), 1, all_processes=alone)
    if processes.first:
        show(tables(result))
    say(f"written: {path}, {out / TRANSCODERS}")
