"""The command `faithfulness inspect`."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import Field, model_validator

from faithfulness_plugin.cli.hook_options import SeededOptions
from faithfulness_plugin.cli.options import made, with_fields
from faithfulness_plugin.cli.terminal import show
from faithfulness_plugin.errors import UsageError
from faithfulness_plugin.extras import require_extra
from faithfulness_plugin.messages import say

if TYPE_CHECKING:
    from faithfulness_plugin.cli.inspect_set import Sources
    from faithfulness_plugin.cli.inspecting import Inspecting
    from faithfulness_plugin.inspection.inspection import Inspection

TOKENS, ROWS = 100_000, 8192
RECORDS = (".parquet", ".jsonl")


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
        description=f"about how many tokens, or rows, to look at, in place of --prompts [default: {TOKENS:,}; for bare "
        f"layers {ROWS:,}]",
    )
    density: float = Field(default=0.1, description="--layer abs: probability that a coordinate is not 0")
    repeat_frac: float = Field(default=0.05, description="--layer abs: probability that a row is the point p")
    n_ones: int = Field(default=3, description="--layer abs: ones in p")
    memory: float = Field(
        default=2.0,
        gt=0,
        description="GiB for rows and activations, beside model and transcoder; more goes to a file",
    )

    details: int | None = Field(
        default=None,
        ge=1,
        description="how many features the page shows with examples, weights and partners, and not by their numbers "
        "alone [default: all; of a set 4,000, those that the tables begin with]",
    )

    @property
    def block(self) -> int | None:
        return int(self.layer) if self.layer is not None and self.layer.isdigit() else None

    @property
    def bare(self) -> bool:
        """Whether the layer is in no language model."""
        return self.layer is not None and self.block is None

    def n_tokens(self, otherwise: int = TOKENS) -> int:
        """Count about how many tokens, or rows, are inspected.

        Args:
            otherwise: how many of a text, where nothing was asked for.

        Returns:
            Tokens, or rows.
        """
        if self.prompts is not None:  # a prompt begins with a special token, which does not count
            return self.prompts * (self.context_size - max(self.skip_first, 1 - self.special_tokens))
        return self.tokens or (ROWS if self.bare else otherwise)

    @model_validator(mode="after")
    def _fit_together(self) -> "InspectOptions":
        own = ":" in (self.layer or "")
        if own != (self.rows is not None):
            raise ValueError(
                "--rows and a layer of your own, --layer my_module:my_layer, go together: pass both or neither"
            )
        if self.bare and not own and self.layer != "abs":
            raise ValueError(
                f"--layer {self.layer}: pass the number of a block, abs, or my_module:my_layer with --rows"
            )
        if self.bare and self.device != "cpu":
            raise ValueError("--device: layers without a language model are looked at on the CPU: leave it out")
        if self.bare and self.prompts is not None:
            raise ValueError(
                "--prompts: a layer without a language model has no prompts: pass --tokens, the number of rows"
            )
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
            "NAME=one of these. Or a set: a folder of transcoders of several layers, each in a subfolder"
        ),
    ],
    compare: Annotated[
        str | None, typer.Option(help="Another transcoder of the same layer, shown beside it: FOLDER or NAME=FOLDER")
    ] = None,
    set_: Annotated[
        str | None, typer.Option("--set", help="Which set of the folder, where it holds several (arms, seeds)")
    ] = None,
    blocks: Annotated[
        str | None, typer.Option(help="Which layers of the set, such as 3,5-7 [default: all of them]")
    ] = None,
    intervene: Annotated[
        str | None,
        typer.Option(
            help="Features that are removed and doubled in the model, such as 14,255; or top, the first 20 of the table"
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="The page")] = Path("out/inspect.html"),
    records: Annotated[
        Path | None, typer.Option(help="Also write the features' numbers, a row each, to this .parquet or .jsonl file")
    ] = None,
    directions: Annotated[
        bool, typer.Option("--directions/--no-directions", help="Keep W_enc and W_dec of each feature in the records")
    ] = True,
    delphi: Annotated[
        Path | None, typer.Option(help="Also write activations as delphi reads them: a folder for each in this folder")
    ] = None,
    neuronpedia: Annotated[
        Path | None, typer.Option(help="Also write features as Neuronpedia reads them: MODEL/LAYER-SET in this folder")
    ] = None,
    circuit_tracer: Annotated[
        Path | None,
        typer.Option(
            help="Also write features as circuit-tracer's front end shows them: in this folder, a folder for each set, "
            "to which further layers are added"
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is there")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON, not as a table")] = False,
) -> None:
    """Look at the features of a transcoder: one page that opens from disk.

    The page shows what each feature reads, writes and does to the Jacobian, the tokens that it raises and reads, where
    it is active, how far the layer itself moves as the feature says, and which features look as if they served a
    repeated input alone. With --compare, it shows two transcoders of one layer beside each other. For a set, all layers
    are on one page, with links from each feature to those of other layers that it is connected with most.
    """
    from faithfulness_plugin.cli.exports import require_exports
    from faithfulness_plugin.cli.inspect_set import sources_of
    from faithfulness_plugin.cli.inspecting import Inspecting
    from faithfulness_plugin.cli.intervening import Asked

    options = made(InspectOptions, **given)
    asked = Asked(intervene, bare=options.bare)
    files = [file for file in (out, records) if file is not None]
    sources = sources_of(path, compare, set_, blocks, options)
    _require(sources.by_name.values(), options, files, records, overwrite=overwrite)
    exports = {"delphi": delphi, "neuronpedia": neuronpedia, "circuit_tracer": circuit_tracer}
    require_exports(exports, list(sources.by_name), bare=options.bare, overwrite=overwrite)

    from faithfulness_plugin.inspection.export import write_records
    from faithfulness_plugin.inspection.inspection import scores_table
    from faithfulness_plugin.inspection.page import write_page

    def write(found: "list[Inspection]", token_text: Any) -> None:
        if records is not None:
            write_records(found, records, token_text=token_text, directions=directions)
        write_page(found, out, token_text=token_text, details=options.details)

    found, written = _inspected(sources, Inspecting(options, asked, exports, write, overwrite), out)
    scores = {of.name: of.scores() for of in found}
    print(json.dumps(scores, indent=1)) if as_json else show(scores_table(found))
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


def _inspected(sources: "Sources", of: "Inspecting", out: Path) -> "tuple[list[Inspection], list[Path]]":
    """Inspect one transcoder, two of one layer, or a set."""
    from faithfulness_plugin.cli.inspect_layer import inspect_layer
    from faithfulness_plugin.cli.inspect_set import inspect_blocks
    from faithfulness_plugin.cli.parts import resumable
    from faithfulness_plugin.transcoders.load import load_each

    read = load_each(sources.by_name, **of.options.reading(of.options.block))
    loaded = {name: each.transcoder for name, each in read.items()}
    of.asked.require(loaded)
    of_a_set = sources.set_name is not None
    with resumable(out, _bytes(loaded, of.options, of_a_set=of_a_set)) as folder:
        return inspect_blocks(sources, loaded, of, folder) if of_a_set else inspect_layer(loaded, of, folder)


def _bytes(loaded: Mapping[str, Any], options: InspectOptions, *, of_a_set: bool) -> int:
    """Return about how many bytes the rows take: what a layer reads and writes, of a set that of each layer."""
    from faithfulness_plugin.cli.inspect_set import TOKENS as OF_A_SET

    first = next(iter(loaded.values()))
    row = first.W_enc.shape[0] * first.W_enc.itemsize + first.W_dec.shape[1] * first.W_dec.itemsize
    return row * (options.n_tokens(OF_A_SET) * len(loaded) if of_a_set else options.n_tokens())
