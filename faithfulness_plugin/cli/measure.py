"""The command `faithfulness measure`."""

from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import Field

from faithfulness_plugin.cli.hook_options import SeededOptions, by_name
from faithfulness_plugin.cli.options import made, with_fields
from faithfulness_plugin.cli.rows import ROW_OPTIONS, row_settings
from faithfulness_plugin.cli.running import run_experiment
from faithfulness_plugin.errors import UsageError
from faithfulness_plugin.messages import say

NAMES = {"held_out_prompts": "prompts", "block": "layer", "transcoder_dtype": "dtype", **ROW_OPTIONS}
"""Options by the fields that they give."""


PROMPTS, SPLICED, EFFECTS, QUICK = 32, 16, 8, 8
"""Held-out prompts: of all, those of the spliced model, and those of effects and deletion curves; those of a quick
look."""
DELETIONS = [1, 4, 16, 64]
"""How many features are deleted."""


class MeasureOptions(SeededOptions):
    """The transcoders, and what they are measured on."""

    prompts: int | None = Field(
        default=None, ge=2, description=f"held-out prompts [default: {PROMPTS}, with --quick {QUICK}]"
    )
    quick: bool = Field(
        default=False,
        description="for a first look: only FVU, L0, Jacobian errors, half-way responses and cross-entropy, on "
        f"{QUICK} prompts",
    )
    references: bool = Field(
        default=True, description="measure a shuffled decoder and the layer's mean beside each transcoder"
    )
    change_layers: str | None = Field(
        default=None,
        description="for a set: the layers whose output is changed, as in 0,4-7, or all [default: the first, the "
        "middle and the last but one]",
    )


@with_fields(MeasureOptions)
def measure(
    given: dict[str, Any],
    paths: Annotated[
        list[str],
        typer.Argument(
            metavar="PATH",
            help="A folder in any known format, an address (hf://owner/repo/path, or RELEASE/ID of SAELens's list), "
            "or NAME=one of these; several for transcoders of one layer. Or a set: a folder of transcoders of several "
            "layers, each in a subfolder, as `faithfulness train --blocks all` writes them",
        ),
    ],
    layer: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="The layer of a set; or, where the files name no tensors, the block whose MLP is replaced "
            "[default: what the files say]",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the result [default: out/measure, with --quick out/measure_quick]")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing result")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON, not as tables")] = False,
) -> None:
    """Measure finished transcoders against their real layer.

    Prints a verdict in one sentence, then outputs, Jacobians, responses to finite steps, the spliced model's
    predictions, effects downstream and deletion curves, each beside a shuffled decoder and a mean ablation. Called
    again, it resumes an interrupted run and shows a complete one.

    For a set, it measures what the model predicts with one, some and all layers replaced, and how all later layers
    respond to a change of a layer's output, by the size of the change.
    """
    from faithfulness_plugin.cli.checks import require_readable
    from faithfulness_plugin.measure.config import LESS, ArtifactConfig
    from faithfulness_plugin.measure.schema import ArtifactResult
    from faithfulness_plugin.measure.sets.folder import folders_in
    from faithfulness_plugin.results.open_or_resume import require_resumable

    options = made(MeasureOptions, **given)
    if layer is None and any(map(folders_in, by_name(paths).values())):
        from faithfulness_plugin.cli.measure_sets import measure_sets

        measure_sets(paths, options, given, out, overwrite=overwrite, as_json=as_json)
    if options.change_layers is not None:
        raise UsageError("--change-layers is for sets, folders of transcoders of several layers: leave it out")
    settings: dict[str, Any] = {
        **options.model_dump(
            include={"hook_in", "hook_out", "hooks_anyway", "autoencoder", "context_size", "seed", "device"}
        ),
        "transcoders": by_name(paths),
        "text": {"files": options.text},
        "block": layer,
        "transcoder_dtype": options.dtype,
        "held_out_prompts": (n_prompts := options.n_prompts(QUICK if options.quick else PROMPTS)),
        "spliced_prompts": min(SPLICED, n_prompts),
        "references": options.references and not options.quick,
        "rows": row_settings(given),
        **(LESS if options.quick else {"effect_prompts": min(EFFECTS, n_prompts), "deletion_sizes": DELETIONS}),
    }
    out = out or Path("out/measure_quick" if options.quick else "out/measure")
    config = made(ArtifactConfig, NAMES, **settings)
    require_readable(config.transcoders.values(), options)
    known = {name: of for name, of in config.every_field().items() if name not in ("model", "model_named", "rows")}
    require_resumable(out, ArtifactResult, known, overwrite=overwrite)

    from faithfulness_plugin.language_model.config import ModelSource
    from faithfulness_plugin.language_model.named_model import choose_model
    from faithfulness_plugin.measure.run import Measurement
    from faithfulness_plugin.transcoders.load import load_each

    loaded = load_each(config.transcoders, **config.reading)
    chosen = choose_model({n: of.transcoder for n, of in loaded.items()}, options.model, anyway=options.model_anyway)
    if chosen.note is not None:
        say(chosen.note)
    config = config.model_copy(update={"model": ModelSource(name=chosen.name), "model_named": chosen.named})
    run_experiment(Measurement(loaded), config, out, overwrite=overwrite, as_json=as_json)
