"""The command `faithfulness measure`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from faithfulness_plugin.cli.hook_options import (
    AsAutoencoder,
    HookIn,
    HookOut,
    HooksAnyway,
    Model,
    ModelAnyway,
    WeightsDtype,
    by_name,
)
from faithfulness_plugin.cli.rows import ROW_OPTIONS, ExcludeNormsAbove, SkipFirst, SpecialTokens, row_settings
from faithfulness_plugin.messages import say

if TYPE_CHECKING:
    from faithfulness_plugin.measure.config import ArtifactConfig

NAMES = {"held_out_prompts": "prompts", "block": "layer", "transcoder_dtype": "dtype", **ROW_OPTIONS}
"""Options by the fields that they give."""


def measure(
    paths: Annotated[
        list[str],
        typer.Argument(
            metavar="PATH",
            help="A folder in any known format, an address (hf://owner/repo/path, or RELEASE/ID of SAELens's list), "
            "or NAME=one of these; several for transcoders of one layer",
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
    out: Annotated[Path, typer.Option(help="Folder for the result")] = Path("out/measure"),
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a result that is there")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON, not as tables")] = False,
) -> None:
    """Measure finished transcoders against their real layer.

    Outputs, Jacobians, responses to finite steps, the spliced model's predictions, effects downstream and deletion
    curves, each beside a shuffled decoder and a mean ablation. Interrupted, it resumes when called again; complete, it
    shows what is there.
    """
    config = _checked(
        {
            "transcoders": by_name(paths),
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
        },
        out,
        overwrite,
    )

    from faithfulness_plugin.cli.running import run_experiment
    from faithfulness_plugin.language_model.config import ModelSource
    from faithfulness_plugin.language_model.named_model import choose_model
    from faithfulness_plugin.measure.artifacts import read_artifacts
    from faithfulness_plugin.measure.run import Measurement

    artifacts = read_artifacts(config)
    chosen = choose_model({a.name: a.transcoder for a in artifacts}, model, anyway=model_anyway)
    if chosen.note is not None:
        say(chosen.note)
    config = config.model_copy(update={"model": ModelSource(name=chosen.name), "model_named": chosen.named})
    run_experiment(Measurement(artifacts), config, out, overwrite=overwrite, as_json=as_json)


def _checked(settings: dict[str, Any], out: Path, overwrite: bool) -> "ArtifactConfig":
    """Make the config, and refuse what can be refused before anything is loaded."""
    from faithfulness_plugin.cli.checks import require_device, require_sources, require_text
    from faithfulness_plugin.cli.options import made
    from faithfulness_plugin.measure.config import ArtifactConfig
    from faithfulness_plugin.measure.schema import ArtifactResult
    from faithfulness_plugin.results.open_or_resume import require_resumable

    config = made(ArtifactConfig, NAMES, **settings)
    require_sources(config.transcoders.values())
    known = config.model_dump(mode="json", exclude={"model", "model_named", "rows"})
    require_resumable(out, ArtifactResult, known, overwrite=overwrite)
    require_text(config.text.files)
    require_device(config.device)
    return config
