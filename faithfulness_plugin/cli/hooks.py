"""The command `faithfulness hooks`."""

import json
from typing import Annotated

import typer

from faithfulness_plugin.cli.hook_options import (
    AsAutoencoder,
    HookIn,
    HookOut,
    Model,
    ModelAnyway,
    WeightsDtype,
    weights_dtype,
)
from faithfulness_plugin.cli.rows import ExcludeNormsAbove, SkipFirst, SpecialTokens, row_settings
from faithfulness_plugin.cli.terminal import show


def hooks(
    path: Annotated[str, typer.Argument(help="The transcoder's folder, file or address")],
    layer: Annotated[
        int | None,
        typer.Option(
            min=0, help="The layer of a set; where the file names no tensors, whose block is searched [default: all]"
        ),
    ] = None,
    model: Model = None,
    model_anyway: ModelAnyway = False,
    text: Annotated[list[str] | None, typer.Option(help="Text files to look at [default: the examples' text]")] = None,
    prompts: Annotated[int, typer.Option(min=1, help="Prompts")] = 4,
    context_size: Annotated[int, typer.Option(min=2, help="Tokens a prompt")] = 64,
    skip_first: SkipFirst = None,
    special_tokens: SpecialTokens = None,
    exclude_norms_above: ExcludeNormsAbove = None,
    hook_in: HookIn = None,
    hook_out: HookOut = None,
    autoencoder: AsAutoencoder = False,
    dtype: WeightsDtype = "float32",
    device: Annotated[str, typer.Option(help="cpu or cuda")] = "cpu",
    as_json: Annotated[bool, typer.Option("--json", help="Print all pairs as JSON")] = False,
) -> None:
    """Find out which tensors of a model a transcoder reads and writes.

    Runs the model once on a few prompts, measures FVU and L0 at every pair of tensors around the block, and ranks them.
    The pair that the file declares (or --hook-in and --hook-out) is marked, and a line says whether it is the best one.
    """
    from faithfulness_plugin.cli.checks import require_device, require_sources, require_text
    from faithfulness_plugin.cli.options import made
    from faithfulness_plugin.language_model.rows import RowSettings, require_rows

    rows = row_settings(skip_first, special_tokens, exclude_norms_above)
    require_rows(made(RowSettings, {"norms_above": "exclude-norms-above"}, **rows), context_size)
    require_sources([path])
    require_text(text or [])
    require_device(device)

    from faithfulness_plugin.measure.candidate_hooks import candidates_on_text
    from faithfulness_plugin.transcoders.load import load_transcoder

    options = {"device": device, "dtype": weights_dtype(dtype), "autoencoder": autoencoder}
    transcoder = load_transcoder(path, layer=layer, **options).eval()
    found = candidates_on_text(
        path,
        transcoder,
        model=model,
        model_anyway=model_anyway,
        files=text or [],
        prompts=prompts,
        context_size=context_size,
        rows=rows,
        device=device,
        layer=layer,
        hook_in=hook_in,
        hook_out=hook_out,
    )
    if as_json:
        print(json.dumps(found.to_dict(), indent=1))
    else:
        show(found.table())
        print(found.verdict())
