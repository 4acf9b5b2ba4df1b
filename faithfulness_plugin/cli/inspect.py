"""The command `faithfulness inspect`."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import Field, model_validator

from faithfulness_plugin.cli.hook_options import SeededOptions, by_name, model_on_text
from faithfulness_plugin.cli.options import made, with_fields
from faithfulness_plugin.cli.terminal import show
from faithfulness_plugin.errors import UsageError
from faithfulness_plugin.extras import require_extra
from faithfulness_plugin.messages import say

if TYPE_CHECKING:
    from faithfulness_plugin.cli.parts import Parts
    from faithfulness_plugin.inspection.passes import Passes
    from faithfulness_plugin.inspection.subjects import Subject

TOKENS, ROWS = 100_000, 8192
RECORDS = (".parquet", ".jsonl")
COSTS = {"activations": 20.0, "features": 15.0, "details": 10.0, "Jacobians": 4.0, "tokens": 8.0}
"""Seconds of a transcoder's parts, of 9,216 features at 100,000 tokens on one core."""
MODEL, PAGE = 80.0, 5.0


class InspectOptions(SeededOptions):
    """The layer that is inspected, and on what."""

    layer: str | None = Field(
        default=None,
        description="the layer of a set, or where the file names no tensors the block whose MLP is replaced; abs, the "
        "toy's y = |x|; or my_module:my_layer, with --rows [default: what the transcoder's metadata say]",
    )
    rows: str | None = Field(default=None, description="rows of a layer of your own, [n, d_in] as .npy")
    tokens: int | None = Field(
        default=None,
        ge=2,
        description=f"about so many tokens, or rows, in place of --prompts [default: {TOKENS:,}; of bare layers "
        f"{ROWS:,}]",
    )
    density: float = Field(default=0.1, description="--layer abs: probability that a coordinate is not 0")
    repeat_frac: float = Field(default=0.05, description="--layer abs: probability that a row is the point p")
    n_ones: int = Field(default=3, description="--layer abs: ones in p")
    memory: float = Field(
        default=2.0,
        gt=0,
        description="GiB for rows and activations, beside model and transcoder; more goes to a file",
    )

    @property
    def block(self) -> int | None:
        return int(self.layer) if self.layer is not None and self.layer.isdigit() else None

    @property
    def bare(self) -> bool:
        """Whether the layer is in no language model."""
        return self.layer is not None and self.block is None

    @property
    def n_tokens(self) -> int:
        """About how many tokens, or rows, are inspected."""
        if self.prompts is not None:  # a prompt begins with a special token, which does not count
            return self.prompts * (self.context_size - max(self.skip_first, 1 - self.special_tokens))
        return self.tokens or (ROWS if self.bare else TOKENS)

    @model_validator(mode="after")
    def _fit_together(self) -> "InspectOptions":
        own = ":" in (self.layer or "")
        if own != (self.rows is not None):
            raise ValueError("--rows go with a layer of your own, --layer my_module:my_layer, and it with --rows")
        if self.bare and not own and self.layer != "abs":
            raise ValueError(f"--layer {self.layer}: the number of a block, abs, or my_module:my_layer with --rows")
        if self.bare and self.device != "cpu":
            raise ValueError("--device: layers without a language model are looked at on the CPU, leave it out")
        if self.bare and self.prompts is not None:
            raise ValueError("--prompts: a layer without a language model is looked at on --tokens rows")
        if self.bare and (self.skip_first or self.special_tokens or self.exclude_norms_above):
            raise ValueError(
                "--skip-first, --special-tokens and --exclude-norms-above are for the rows of a text: leave them out"
            )
        return self


@with_fields(InspectOptions)
def inspect(
    given: dict[str, Any],
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
    out: Annotated[Path, typer.Option(help="The page")] = Path("out/inspect.html"),
    records: Annotated[
        Path | None, typer.Option(help="The numbers of all as well, a row a feature: a .parquet or .jsonl file")
    ] = None,
    directions: Annotated[
        bool, typer.Option("--directions/--no-directions", help="With them W_enc and W_dec of each feature")
    ] = True,
    delphi: Annotated[
        Path | None, typer.Option(help="Activations as well, as delphi reads them: a folder in this folder for each")
    ] = None,
    neuronpedia: Annotated[
        Path | None, typer.Option(help="Features as well, as Neuronpedia reads them: MODEL/LAYER-SET in this folder")
    ] = None,
    circuit_tracer: Annotated[
        Path | None,
        typer.Option(
            help="Features as well, as circuit-tracer's front end shows them: a folder in this folder for each set, to "
            "which further layers are added"
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is there")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON, not as a table")] = False,
) -> None:
    """Look at the features of a transcoder: one page that opens from disk.

    What each feature reads, writes and does to the Jacobian, the tokens that it raises and reads, where it is active,
    how far the layer itself moves as it says, and which features look as if they served a repeated input alone. With
    --compare, two transcoders of one layer beside each other.
    """
    from faithfulness_plugin.cli.exports import Handed, require_exports, write_exports

    options = made(InspectOptions, **given)
    files = [file for file in (out, records) if file is not None]
    sources = by_name([path] if compare is None else [path, compare])
    _require(sources.values(), options, files, records, overwrite=overwrite)
    exports = {"delphi": delphi, "neuronpedia": neuronpedia, "circuit_tracer": circuit_tracer}
    require_exports(exports, list(sources), bare=options.bare, overwrite=overwrite)

    from faithfulness_plugin.cli.parts import Parts, resumable
    from faithfulness_plugin.inspection.export import write_records
    from faithfulness_plugin.inspection.inspection import scores_table
    from faithfulness_plugin.inspection.page import write_page
    from faithfulness_plugin.inspection.passes import Passes
    from faithfulness_plugin.transcoders.load import load_each

    loaded = {name: of.transcoder for name, of in load_each(sources, **options.reading(options.block)).items()}
    with Parts(_costs(loaded, options)) as parts, resumable(out, options.n_tokens * _row_bytes(loaded)) as folder:
        passes = Passes(folder, parts.on_part)
        subject = _subject(loaded, options, parts, passes)
        found = []
        for name, transcoder in loaded.items():
            of_this = Passes(folder, lambda part, share, name=name: parts.on_part(f"{name}: {part}", share))
            found.append(subject.inspect(transcoder, name=name, passes=of_this))
        parts.on_part("page", 0.0)
        if records is not None:
            write_records(found, records, token_text=subject.token_text, directions=directions)
        model_name = getattr(getattr(subject.token_text, "tokenizer", None), "name_or_path", "")
        shared = (subject, model_name, ", ".join(options.text), overwrite)
        written = write_exports(exports, [Handed(of, *shared) for of in found])
        write_page(found, out, token_text=subject.token_text)
        passes.clear()
    if as_json:
        print(json.dumps({of.name: of.scores() for of in found}, indent=1))
    else:
        show(scores_table(found))
    say("written: " + ", ".join(map(str, [*files, *written])))


def _require(
    sources: Iterable[str], options: InspectOptions, files: Iterable[Path], records: Path | None, *, overwrite: bool
) -> None:
    """Refuse what can be told before anything is loaded."""
    from faithfulness_plugin.cli.checks import require_new_files, require_readable, require_rows

    if records is not None and records.suffix not in RECORDS:
        raise UsageError(f"{records}: choose a name for the records that ends in {' or '.join(RECORDS)}")
    require_extra("inspect", "plotly", *(["pyarrow"] if records and records.suffix == ".parquet" else []))
    require_readable(sources, options)
    if options.rows is not None:
        require_rows(Path(options.rows))
    require_new_files(files, overwrite=overwrite)


def _costs(loaded: Mapping[str, Any], options: InspectOptions) -> dict[str, float]:
    """Return the parts, with what each costs."""
    model = {} if options.bare else {"rows": MODEL}
    return model | {f"{name}: {part}": cost for name in loaded for part, cost in COSTS.items()} | {"page": PAGE}


def _row_bytes(loaded: Mapping[str, Any]) -> int:
    """Return the bytes of a row of the layer, what it reads and what it writes."""
    first = next(iter(loaded.values()))
    return first.W_enc.shape[0] * first.W_enc.itemsize + first.W_dec.shape[1] * first.W_dec.itemsize


def _subject(loaded: Mapping[str, Any], options: InspectOptions, parts: "Parts", passes: "Passes") -> "Subject":
    """Return the layer on rows, and say what has to be said about them."""
    from faithfulness_plugin.inspection.subjects import bare_subject, text_subject, toy_subject
    from faithfulness_plugin.language_model.rows import say_rows

    shared: dict[str, Any] = {"seed": options.seed, "memory": options.memory}
    if options.bare:
        shared |= {"n_rows": options.n_tokens}
        if options.rows is not None:
            return bare_subject(str(options.layer), Path(options.rows), **shared)
        drawn = options.model_dump(include={"density", "repeat_frac", "n_ones"})
        return toy_subject(len(next(iter(loaded.values())).W_enc), **drawn, **shared)
    source, named = model_on_text(options, loaded, parts.tell, options.seed)
    subject = text_subject(
        source,
        list(loaded.values()),
        model_named=named,
        block=options.block,
        n_tokens=options.n_tokens,
        memory=options.memory,
        passes=passes,
        **options.model_dump(include={"hook_in", "hook_out", "hooks_anyway"}),
    )
    for notice in subject.notices:
        say(f"warning: {notice}")
    assert subject.sample.origins is not None
    say_rows("rows", subject.sample.origins.left_out, subject.sample.concentration())
    return subject
