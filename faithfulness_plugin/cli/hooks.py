"""The command `faithfulness hooks`."""

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

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
from faithfulness_plugin.cli.terminal import fail, show
from faithfulness_plugin.messages import one_line, say

if TYPE_CHECKING:
    from faithfulness_plugin.measure.candidate_hooks import HookCandidates

SHOWN = 12


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
    from faithfulness_plugin.transcoders.load import load_transcoder

    try:
        transcoder = load_transcoder(
            path, layer=layer, device=device, dtype=weights_dtype(dtype), autoencoder=autoencoder
        ).eval()
    except ValueError as error:
        fail(one_line(error), 2)
    try:
        found = _candidates(
            transcoder,
            path,
            {"given": model, "anyway": model_anyway},
            text or [],
            (prompts, context_size),
            {"layer": layer, "hook_in": hook_in, "hook_out": hook_out},
            row_settings(skip_first, special_tokens, exclude_norms_above),
            device,
        )
    except KeyboardInterrupt:
        say("stopped")
        raise typer.Exit(130) from None
    except ValueError as error:
        fail(one_line(error), 2)
    except (RuntimeError, OSError) as error:
        fail(one_line(error), 1)
    if as_json:
        print(json.dumps(_as_json(found), indent=1))
    else:
        show(_table(found))
        print(found.verdict())


def _candidates(
    transcoder: Any,
    path: str,
    model: dict[str, Any],
    files: list[str],
    size: tuple[int, int],
    asked: dict[str, Any],
    which_rows: dict[str, Any],
    device: str,
) -> "HookCandidates":
    from faithfulness_plugin.language_model.config import ModelSource, TextSource, make_config
    from faithfulness_plugin.language_model.model import load_model, model_title
    from faithfulness_plugin.language_model.named_model import choose_model
    from faithfulness_plugin.language_model.rows import RowSettings, require_rows, say_rows
    from faithfulness_plugin.language_model.text import cut_prompts
    from faithfulness_plugin.layers.any_model import hooks_of
    from faithfulness_plugin.measure.candidate_hooks import hook_candidates
    from faithfulness_plugin.store.left_out import LeftOutCounts

    rows = make_config(which_rows, "rows", RowSettings)
    require_rows(rows, size[1])
    chosen = choose_model({path: transcoder}, model["given"], anyway=model["anyway"])
    if chosen.note is not None:
        say(chosen.note)
    source = ModelSource(name=chosen.name)
    say(f"loading {model_title(source)}")
    loaded = load_model(source, device, plain=True)
    there = hooks_of(loaded)
    n, context_size = size
    tokens = cut_prompts(TextSource(files=files), loaded.tokenizer, context_size, 0, n, least=1, hooks=there)
    kept = rows.left_out(loaded.tokenizer).places(tokens)
    first, n_kept = min(rows.skip_first, context_size) * len(tokens), int(kept.sum())
    counts = LeftOutCounts(tokens.numel(), first, tokens.numel() - first - n_kept, 0)
    if not n_kept:
        raise ValueError(f"no row is left to look at ({counts}): leave out less, or give longer prompts")
    on_device = tokens.to(there.device)
    found = hook_candidates(there, transcoder, on_device, kept=kept, norms_above=rows.norms_above, **asked)
    say_rows("rows", replace(counts, norms=n_kept - found.n_rows), None)
    for pair in dict.fromkeys(pair for pair in (found.compared, found.best) if pair is not None):
        say_rows(f"rows at {pair.hook_out[0]}", None, pair.spread)
    return found


def _names(names: tuple[str, ...]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} (also {', '.join(names[1:])})"


def _table(found: "HookCandidates") -> str:
    from faithfulness_plugin.results.markdown import markdown_table

    places = range(len(found.pairs))
    listed = [i for i in places if i < SHOWN or found.pairs[i].compared]
    rows = []
    for i in listed:
        pair = found.pairs[i]
        marks = ["declared"] * pair.compared + ["autoencoder's"] * pair.autoencoder
        numbers = [f"{pair.fvu:.3g}", f"{pair.l0:.1f}", f"{pair.norm_in:.3g}", f"{pair.norm_out:.3g}"]
        rows.append([str(i + 1), _names(pair.hook_in), _names(pair.hook_out), *numbers, ", ".join(marks)])
    l0 = "L0" if found.declared_l0 is None else f"L0 (declared: {found.declared_l0:.1f})"
    table = markdown_table(["", "reads", "writes", "FVU", l0, "norm read", "norm written", ""], rows)
    left = len(found.pairs) - len(listed)
    return table + (f"\n{left} more pairs, with higher FVU, are left out (--json has all).\n" if left else "")


def _as_json(found: "HookCandidates") -> dict[str, Any]:
    pairs = [
        {
            "hook_in": list(pair.hook_in),
            "hook_out": list(pair.hook_out),
            "fvu": pair.fvu,
            "l0": pair.l0,
            "norm_in": pair.norm_in,
            "norm_out": pair.norm_out,
            "rows_for_half": None if pair.spread is None else pair.spread.rows_for_half,
            "declared": pair.compared,
            "autoencoder": pair.autoencoder,
        }
        for pair in found.pairs
    ]
    return {
        "declared": found.declared,
        "declared_l0": found.declared_l0,
        "rows": found.n_rows,
        "clearly_another": found.clearly_another,
        "verdict": found.verdict(),
        "pairs": pairs,
    }
