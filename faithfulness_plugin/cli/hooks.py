"""The command `faithfulness hooks`."""

import json
from typing import Annotated, Any

import typer
from pydantic import Field

from faithfulness_plugin.cli.hook_options import TranscoderOptions, model_on_text
from faithfulness_plugin.cli.options import made, with_fields
from faithfulness_plugin.cli.terminal import show
from faithfulness_plugin.messages import say

PROMPTS = 4


class HooksOptions(TranscoderOptions):
    """The transcoder and a few prompts."""

    prompts: int | None = Field(default=None, ge=1, description=f"how many prompts to look at [default: {PROMPTS}]")
    context_size: int = Field(default=64, ge=2, description="tokens a prompt")


@with_fields(HooksOptions)
def hooks(
    given: dict[str, Any],
    path: Annotated[str, typer.Argument(help="The transcoder's folder, file or address")],
    layer: Annotated[
        int | None,
        typer.Option(
            min=0, help="The layer of a set; or, where the file names no tensors, the block to search [default: all]"
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print all pairs as JSON")] = False,
) -> None:
    """Find out which tensors of a model a transcoder reads and writes.

    Runs the model once on a few prompts, measures FVU and L0 at every pair of tensors around the block, and ranks them.
    The pair that the file declares (or --hook-in and --hook-out) is marked, and a line says whether it is the best one.
    """
    from faithfulness_plugin.cli.checks import require_readable

    options = made(HooksOptions, **given)
    require_readable([path], options)

    from faithfulness_plugin.measure.candidate_hooks import candidates_on_text
    from faithfulness_plugin.transcoders.load import load_each

    (loaded,) = load_each({path: path}, **options.reading(layer)).values()
    source, _ = model_on_text(options, {path: loaded.transcoder}, say)
    asked = {"layer": layer, "hook_in": options.hook_in, "hook_out": options.hook_out}
    found = candidates_on_text(source, loaded.transcoder, options.n_prompts(PROMPTS), **asked)
    if as_json:
        print(json.dumps(found.to_dict(), indent=1))
    else:
        show(found.table())
        print(found.verdict())
