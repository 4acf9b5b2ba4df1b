"""The command `faithfulness inspect`."""

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
    weights_dtype,
)
from faithfulness_plugin.cli.rows import ExcludeNormsAbove, SkipFirst, SpecialTokens, row_settings
from faithfulness_plugin.cli.terminal import Lines, fail, show
from faithfulness_plugin.messages import one_line, say

if TYPE_CHECKING:
    from faithfulness_plugin.benchmarks.inspection.subjects import Subject

TOKENS, ROWS = 100_000, 8192


def inspect(
    path: Annotated[
        str,
        typer.Argument(
            help="The transcoder's folder, an address (hf://owner/repo/path, or RELEASE/ID of SAELens's list), or "
            "NAME=one of these"
        ),
    ],
    compare: Annotated[
        str | None, typer.Option(help="Another one of the same layer, shown beside it: FOLDER or NAME=FOLDER")
    ] = None,
    layer: Annotated[
        str | None,
        typer.Option(
            help="The layer of a set, or where the file names no tensors the block whose MLP is replaced; abs, the "
            "toy's y = |x|; or my_module:my_layer, with --rows [default: what the transcoder's metadata say]"
        ),
    ] = None,
    hook_in: HookIn = None,
    hook_out: HookOut = None,
    hooks_anyway: HooksAnyway = False,
    autoencoder: AsAutoencoder = False,
    dtype: WeightsDtype = "float32",
    model: Model = None,
    model_anyway: ModelAnyway = False,
    text: Annotated[list[str] | None, typer.Option(help="Text files to look at [default: the examples' text]")] = None,
    rows: Annotated[Path | None, typer.Option(help="Rows of a layer of your own, [n, d_in] as .npy")] = None,
    tokens: Annotated[
        int | None, typer.Option(help=f"Tokens, or rows, to look at [default: {TOKENS:,}; of bare layers {ROWS:,}]")
    ] = None,
    context_size: Annotated[int, typer.Option(help="Tokens a prompt")] = 128,
    skip_first: SkipFirst = None,
    special_tokens: SpecialTokens = None,
    exclude_norms_above: ExcludeNormsAbove = None,
    density: Annotated[float, typer.Option(help="--layer abs: probability that a coordinate is not 0")] = 0.1,
    repeat_frac: Annotated[float, typer.Option(help="--layer abs: probability that a row is the point p")] = 0.05,
    n_ones: Annotated[int, typer.Option(help="--layer abs: ones in p")] = 3,
    out: Annotated[Path, typer.Option(help="The page")] = Path("out/inspect.html"),
    records: Annotated[
        Path | None, typer.Option(help="The numbers of all as well, a row a feature: a .parquet or .jsonl file")
    ] = None,
    directions: Annotated[
        bool, typer.Option("--directions/--no-directions", help="With them W_enc and W_dec of each feature")
    ] = True,
    memory: Annotated[
        float, typer.Option(help="GiB for rows and activations, beside model and transcoder; more goes to a file")
    ] = 2.0,
    seed: Annotated[int, typer.Option(help="Of the prompts' order, or of the rows")] = 0,
    device: Annotated[str, typer.Option(help="cpu or cuda")] = "cpu",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a page that is there")] = False,
) -> None:
    """Look at the features of a transcoder: one page that opens from disk.

    What each feature reads, writes and does to the Jacobian, where it is most active, and which features look as if
    they served a repeated input alone. With --compare, two transcoders of one layer beside each other.
    """
    from faithfulness_plugin.inspection.export import KINDS, write_records
    from faithfulness_plugin.inspection.inspection import inspect_transcoder
    from faithfulness_plugin.inspection.page import write_page
    from faithfulness_plugin.language_model.rows import say_rows

    for file in [f for f in (out, records) if f is not None]:
        if file.exists() and not overwrite:
            fail(f"{file} is there already: choose another name, or pass --overwrite", 2)
    if records is not None and records.suffix not in KINDS:
        fail(f"--records {records}: choose a name that ends in {' or '.join(KINDS)}", 2)
    if memory <= 0 or (tokens is not None and tokens < 1) or context_size < 2:
        fail("--memory and --tokens are positive, and --context-size is 2 or more", 2)
    if device != "cpu" and layer is not None and (layer == "abs" or ":" in layer):
        fail(f"--device {device}: layers without a language model are looked at on the CPU, leave it out", 2)
    options = {"device": device, "dtype": weights_dtype(dtype), "autoencoder": autoencoder}
    loaded = _loaded([given for given in (path, compare) if given is not None], layer, options)
    settings: dict[str, Any] = {
        "model": model,
        "model_anyway": model_anyway,
        "text": text,
        "rows": rows,
        "tokens": tokens,
        "context_size": context_size,
        "hook_in": hook_in,
        "hook_out": hook_out,
        "hooks_anyway": hooks_anyway,
        "toy": {"density": density, "repeat_frac": repeat_frac, "n_ones": n_ones},
        "which_rows": row_settings(skip_first, special_tokens, exclude_norms_above),
        "memory": memory,
        "seed": seed,
        "device": device,
    }
    try:
        subject = _subject(loaded, layer, settings)
    except KeyboardInterrupt:
        say("stopped: nothing was written")
        raise typer.Exit(130) from None
    for notice in subject.notices:
        say(f"warning: {notice}")
    if (origins := subject.sample.origins) is not None:
        say_rows("rows", origins.left_out, subject.sample.concentration())
    try:
        found = []
        for name, transcoder in loaded.items():
            with Lines(len(subject.sample), 0, f"looking at {name}") as lines:
                found.append(
                    inspect_transcoder(
                        transcoder,
                        subject.layer,
                        subject.sample,
                        name=name,
                        layer_name=subject.name,
                        circuits=subject.circuits,
                        kinks=subject.kinks,
                        on_rows=lines.advance,
                    )
                )
        if records is not None:
            write_records(found, records, token_text=subject.token_text, directions=directions)
        write_page(found, out, token_text=subject.token_text)
    except KeyboardInterrupt:
        say("stopped: nothing was written")
        raise typer.Exit(130) from None
    except (ValueError, RuntimeError, OSError) as error:
        fail(one_line(error), 1)
    show(_table(found))
    say("written: " + ", ".join(str(f) for f in (out, records) if f is not None))


def _loaded(given: list[str], layer: str | None, options: dict[str, Any]) -> dict[str, Any]:
    """The transcoders by name. Fails for one that cannot be read."""
    from faithfulness_plugin.cli.artifact import by_name
    from faithfulness_plugin.transcoders.load import load_transcoder

    block = int(layer) if layer is not None and layer.isdigit() else None
    try:
        return {n: load_transcoder(f, layer=block, **options) for n, f in by_name(given).items()}
    except ValueError as error:
        fail(one_line(error), 2)


def _subject(loaded: dict[str, Any], layer: str | None, settings: dict[str, Any]) -> "Subject":
    """The layer, on rows. Fails for one that there is not."""
    from faithfulness_plugin.benchmarks.inspection.subjects import SubjectError, bare_subject, text_subject, toy_subject
    from faithfulness_plugin.language_model.config import (
        ModelSource,
        TextSource,
        TrainConfigError,
        make_config,
    )
    from faithfulness_plugin.language_model.named_model import choose_model
    from faithfulness_plugin.language_model.rows import RowSettings, require_rows

    first = next(iter(loaded.values()))
    shared = {"seed": settings["seed"], "memory": settings["memory"]}
    if (layer is not None and ":" in layer) != (settings["rows"] is not None):
        fail("--rows go with a layer of your own, --layer my_module:my_layer, and it with --rows", 2)
    if layer is not None and not (layer == "abs" or ":" in layer or layer.isdigit()):
        fail(f"--layer {layer}: the number of a block, abs, or my_module:my_layer with --rows", 2)
    if settings["which_rows"] and layer is not None and not layer.isdigit():
        fail("--skip-first, --special-tokens and --exclude-norms-above are for the rows of a text: leave them out", 2)
    try:
        which_rows = make_config(settings["which_rows"], "rows", RowSettings)
        require_rows(which_rows, settings["context_size"])
    except ValueError as error:
        fail(one_line(error), 2)
    try:
        if layer == "abs":
            n_rows = settings["tokens"] or ROWS
            return toy_subject(len(first.W_enc), **settings["toy"], n_rows=n_rows, **shared)
        if layer is not None and ":" in layer:
            return bare_subject(layer, settings["rows"], n_rows=settings["tokens"] or ROWS, **shared)
        chosen = choose_model(loaded, settings["model"], anyway=settings["model_anyway"])
        if chosen.note is not None:
            say(chosen.note)
        with Lines(-(-(settings["tokens"] or TOKENS) // (settings["context_size"] - 1)), 0, "prompts") as lines:
            return text_subject(
                ModelSource(name=chosen.name),
                TextSource(files=settings["text"] or []),
                list(loaded.values()),
                model_named=chosen.named,
                block=None if layer is None else int(layer),
                hook_in=settings["hook_in"],
                hook_out=settings["hook_out"],
                hooks_anyway=settings["hooks_anyway"],
                n_tokens=settings["tokens"] or TOKENS,
                context_size=settings["context_size"],
                rows=which_rows,
                device=settings["device"],
                note=lines.tell,
                on_prompts=lines.advance,
                **shared,
            )
    except (SubjectError, TrainConfigError) as error:
        fail(one_line(error), 2)
    except (ValueError, RuntimeError, OSError) as error:
        fail(one_line(error), 1)


def _table(found: list[Any]) -> str:
    from faithfulness_plugin.results.markdown import markdown_table

    rows = []
    for of in found:
        r, j = of.records, of.overview.jacobian
        first = int(r.datapoint.score.argmax())
        rows.append(
            [
                of.name,
                f"{r.fvu:.3f}",
                f"{r.l0:.2f}",
                f"{int(r.dead.sum())} of {r.d_sae}",
                f"{j.relative_error:.3f}",
                f"{j.relative_error_data:.3f}",
                f"{int(r.flagged.sum())}",
                f"{first} ({r.datapoint.score[first]:.2f})",
            ]
        )
    header = ["transcoder", "FVU", "L0", "dead", "J error", "J error, data", "flagged", "first by datapoint score"]
    return markdown_table(header, rows)
