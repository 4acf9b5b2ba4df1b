"""The command `faithfulness train`."""

from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from faithfulness_plugin.cli.options import with_fields
from faithfulness_plugin.cli.rows import RowOptions, row_settings
from faithfulness_plugin.cli.stores import StoreOptions, store_settings
from faithfulness_plugin.cli.terminal import fail, show_result
from faithfulness_plugin.errors import UsageError
from faithfulness_plugin.messages import one_line, say

if TYPE_CHECKING:  # at run time the command imports them
    from faithfulness_plugin.language_model.config import TrainConfig
    from faithfulness_plugin.language_model.train import Training


@with_fields(RowOptions, StoreOptions)
def train(
    given: dict[str, Any],
    config: Annotated[
        Path | None,
        typer.Argument(help="YAML file of settings [default: a 4-bit SmolLM2-135M-Instruct, no hub needed]"),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for transcoders, checkpoints and result")] = Path("out/train"),
    blocks: Annotated[
        str | None, typer.Option(help="all, or numbers as in 0,4-7: whose MLPs are replaced, in place of the file's")
    ] = None,
    tokens: Annotated[int | None, typer.Option(help="Tokens to train on, in place of the file's")] = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda, in place of the file's")] = None,
    seed: Annotated[int | None, typer.Option(help="The first seed, in place of the file's")] = None,
    seeds: Annotated[int | None, typer.Option(help="How many seeds, in place of the file's")] = None,
    stores: Annotated[
        Path | None,
        typer.Option(help="Folder for stores of each layer's rows: filled once, then trained from [default: none]"),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing run")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON, not as tables")] = False,
    print_config: Annotated[
        bool, typer.Option("--print-config", help="Print the default settings with comments, to be edited, and stop")
    ] = False,
) -> None:
    """Train transcoders of a language model's MLPs, with and without Jacobian matching, from a file of settings.

    Prints FVU, L0, Jacobian errors and the loss of the spliced model before and after, and where the time goes; writes
    the transcoders in SAELens's format, with model cards. Called again, it resumes an interrupted run from the last
    checkpoint and shows a complete one. With --stores the model runs once, and several processes can train
    together: torchrun --nproc-per-node 2 -m faithfulness_plugin train --stores out/stores
    """
    from faithfulness_plugin.language_model.config import TrainConfig, read_config
    from faithfulness_plugin.results.settings_file import make_config

    if print_config:
        print((files("faithfulness_plugin.adapters.examples") / "train.yaml").read_text("utf-8"), end="")
        return
    settings: dict[str, Any] = {} if config is None else read_config(config).model_dump(exclude_unset=True)
    flags = {"blocks": blocks, "tokens": tokens, "device": device, "seed": seed, "seeds": seeds}
    settings |= {name: value for name, value in flags.items() if value is not None}
    if rows := row_settings(given):
        settings["rows"] = {**settings.get("rows", {}), **rows}
    if kept := store_settings(given):
        settings["stores"] = {**settings.get("stores", {}), **kept}
    wanted = make_config(settings, str(config or "default settings"), TrainConfig)
    _check(wanted, out, stores, overwrite)

    from faithfulness_plugin.training.processes import ProcessError, joined

    try:
        with joined(wanted.device) as processes:
            if processes.several and stores is None:
                raise UsageError(f"{processes.size} processes train from stores of derivatives: pass --stores FOLDER")
            from faithfulness_plugin.language_model.train import Training

            _train(Training(stores, processes), wanted, out, overwrite, as_json)
    except ProcessError as error:
        fail(one_line(error), 1, all_processes=True)


def _check(wanted: "TrainConfig", out: Path, stores: Path | None, overwrite: bool) -> None:
    """Refuse what can be refused before anything is loaded."""
    from faithfulness_plugin.cli.checks import require_device, require_text
    from faithfulness_plugin.language_model.hub_model import only_cached
    from faithfulness_plugin.language_model.result import TrainResult
    from faithfulness_plugin.language_model.store_settings import AS_BEFORE
    from faithfulness_plugin.results.open_or_resume import require_resumable, require_writable
    from faithfulness_plugin.results.schema import Environment

    fresh = TrainResult(
        complete=False,
        environment=Environment.here(wanted.device),
        model=wanted.model.name,
        config=wanted,
        from_stores=stores is not None,
    )
    if require_resumable(out, TrainResult, fresh.settings, overwrite=overwrite):
        return  # model and text may have gone
    if stores is not None:
        require_writable(stores, "--stores")
    elif wanted.stores != AS_BEFORE:
        raise UsageError("the settings of stores are for training from stores: pass --stores FOLDER as well")
    require_text(wanted.text.files)
    only_cached(wanted.model.name)
    require_device(wanted.device)


def _train(training: "Training", wanted: "TrainConfig", out: Path, overwrite: bool, as_json: bool) -> None:
    """Train in this process, one of several perhaps; of these the first writes and speaks, and the others speak of
    what they meet by themselves alone."""
    from faithfulness_plugin.language_model.train import TRANSCODERS
    from faithfulness_plugin.results.experiment import Running, open_result, run_parts
    from faithfulness_plugin.results.open_or_resume import RESULT_FILENAME
    from faithfulness_plugin.training.processes import AbortedByRankZero, lost_another

    processes, path, began = training.processes, out / RESULT_FILENAME, False
    try:
        result = processes.first_does(lambda: open_result(training, wanted, out, overwrite))
        result = processes.from_first(result)
        assert result is not None
        if result.complete:
            say(f"{path} is complete; shown again, not run again (--overwrite runs it again)")
        else:
            began = not overwrite and path.exists()
            running = Running(out, resumes=began, note=say)
            parts = run_parts(training, result, running) if processes.first else training.run(result, running)
            for grown, _ in parts:
                result, began = grown, True
    except AbortedByRankZero:
        raise typer.Exit(2) from None
    except KeyboardInterrupt:
        again = f"the same command{' without --overwrite' * overwrite} resumes from the last checkpoint"
        say(f"stopped; {again}" if began else "stopped; nothing has been begun, or replaced")
        raise typer.Exit(130) from None
    except (ValueError, RuntimeError, OSError) as error:
        if processes.first or lost_another(error):
            raise
        fail(one_line(error), 2 if isinstance(error, UsageError) else 1, all_processes=True)
    if processes.first:
        show_result(training, result, as_json)
    say(f"written: {path}, {out / TRANSCODERS}")
