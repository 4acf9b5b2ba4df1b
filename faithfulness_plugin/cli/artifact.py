"""The command `faithfulness bench artifact`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from faithfulness_plugin.cli.hook_options import (
    AsAutoencoder,
    HookIn,
    HookOut,
    HooksAnyway,
    Model,
    ModelAnyway,
    WeightsDtype,
)
from faithfulness_plugin.cli.rows import ExcludeNormsAbove, SkipFirst, SpecialTokens, row_settings
from faithfulness_plugin.cli.terminal import Lines, fail, show
from faithfulness_plugin.messages import one_line, say


def artifact(
    transcoders: Annotated[
        list[str],
        typer.Option(
            "--transcoder",
            help="A folder in any known format, an address (hf://owner/repo/path, or RELEASE/ID of SAELens's list), "
            "or NAME=one of these; may be repeated, for transcoders of one layer",
        ),
    ],
    model: Model = None,
    model_anyway: ModelAnyway = False,
    text: Annotated[
        list[str] | None, typer.Option(help="Text files to measure on [default: the examples' text]")
    ] = None,
    layer: Annotated[
        int | None,
        typer.Option(
            "--layer",
            "--block",
            min=0,
            help="The layer of a set; where the files name no tensors, whose MLP is replaced [default: what they say]",
        ),
    ] = None,
    hook_in: HookIn = None,
    hook_out: HookOut = None,
    hooks_anyway: HooksAnyway = False,
    autoencoder: AsAutoencoder = False,
    dtype: WeightsDtype = "float32",
    prompts: Annotated[int, typer.Option(help="Held-out prompts")] = 32,
    context_size: Annotated[int, typer.Option(help="Tokens a prompt")] = 128,
    seed: Annotated[int, typer.Option(help="Of the prompts' order and of all directions")] = 0,
    skip_first: SkipFirst = None,
    special_tokens: SpecialTokens = None,
    exclude_norms_above: ExcludeNormsAbove = None,
    device: Annotated[str, typer.Option(help="cpu or cuda")] = "cpu",
    out: Annotated[Path, typer.Option(help="Folder for the result")] = Path("out/artifact"),
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a result that is there")] = False,
) -> None:
    """Measure finished transcoders against their real layer.

    Outputs, Jacobians, responses to finite steps, the spliced model's predictions, effects downstream and deletion
    curves, each beside a shuffled decoder and a mean ablation. Interrupted, it goes on where it stopped when called
    again; complete, it shows what is there.
    """
    from faithfulness_plugin.language_model.config import TrainConfigError, make_config
    from faithfulness_plugin.language_model.named_model import choose_model
    from faithfulness_plugin.measure.config import ArtifactConfig
    from faithfulness_plugin.measure.report import tables
    from faithfulness_plugin.measure.run import complete, open_result, read_artifacts
    from faithfulness_plugin.measure.schema import ROLES
    from faithfulness_plugin.results.result_file import RESULT_FILENAME
    from faithfulness_plugin.results.schema import ResultError, read_result

    settings: dict[str, Any] = {
        "transcoders": by_name(transcoders),
        "text": {"files": text} if text else {},
        "block": layer,
        "hook_in": hook_in,
        "hook_out": hook_out,
        "hooks_anyway": hooks_anyway,
        "autoencoder": autoencoder,
        "transcoder_dtype": dtype,
        "held_out_prompts": prompts,
        "spliced_prompts": min(16, prompts),
        "context_size": context_size,
        "rows": row_settings(skip_first, special_tokens, exclude_norms_above),
        "seed": seed,
        "device": device,
    }
    path = out / RESULT_FILENAME
    try:
        artifacts = read_artifacts(make_config(settings, "options", ArtifactConfig))
        chosen = choose_model({a.name: a.transcoder for a in artifacts}, model, anyway=model_anyway)
        if chosen.note is not None:
            say(chosen.note)
        settings |= {"model": {"name": chosen.name}, "model_named": chosen.named}
        config = make_config(settings, "options", ArtifactConfig)
        result = open_result(out, config, overwrite=overwrite)
    except (TrainConfigError, ResultError, ValueError) as error:
        fail(one_line(error), 2)
    total = len(artifacts) * len(ROLES)
    if shown := result.complete:
        say(f"{path} is complete; shown again, not run again (--overwrite runs it anew)")
    elif result.measured:
        say(f"{path} holds {len(result.measured)} of {total} measurements: going on")
    try:
        with Lines(total, len(result.measured), "measurements") as lines:
            result = complete(
                result,
                artifacts,
                out,
                note=lines.tell,
                on_measured=lambda of: lines.show(f"{of.name}, {of.role}: L0 {of.l0:.1f}, KL {of.kl:.3f}"),
            )
    except KeyboardInterrupt:
        say(f"stopped; the same command{' without --overwrite' * overwrite} goes on from there")
        raise typer.Exit(130) from None
    except (TrainConfigError, ResultError, ValueError) as error:
        fail(one_line(error), 2)
    except (RuntimeError, OSError) as error:
        fail(one_line(error), 1)
    for notice in result.notices:
        say(f"warning: {notice}")
    show(tables(read_result(path, type(result))))
    if not shown:
        say(f"written: {path}")


def by_name(given: list[str]) -> dict[str, str]:
    """NAME=FOLDER or NAME=ADDRESS by name; a folder or an address under its own short name."""
    from faithfulness_plugin.transcoders.source import named

    found: dict[str, str] = {}
    for text in given:
        try:
            name, source = named(text)
        except ValueError as error:
            fail(one_line(error), 2)
        if name in found:
            fail(f"{text}: there is a {name} already; write NAME=FOLDER, with another name", 2)
        found[name] = source
    return found
