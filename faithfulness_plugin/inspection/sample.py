"""The rows on which features are looked at: what the layer reads and writes there, and which of them are alike."""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformer_lens.hook_points import HookPoint

from faithfulness_plugin.display import short_repr
from faithfulness_plugin.inspection.near_duplicates import RowSketches, near_duplicates
from faithfulness_plugin.language_model.document_places import DocumentPlaces
from faithfulness_plugin.layers.derivatives import Layer, layer_output
from faithfulness_plugin.metrics.variance_concentration import VarianceConcentration, concentration_of
from faithfulness_plugin.store.kept_rows import evenly
from faithfulness_plugin.store.left_out import LeftOutCounts

GIB = 2**30
MEMORY = 2.0
AT_A_TIME = 4096  # rows
CACHED = 2**24
"""Bytes of a part's activations: parts of four times as many take a third longer."""


@dataclass(frozen=True)
class Origins:
    """Where rows of a text come from."""

    tokens: Int[Tensor, "prompts pos"]
    prompt: Int[Tensor, " rows"]
    position: Int[Tensor, " rows"]
    row_at: Int[Tensor, "prompts pos"]
    """The other way round: the row at each token, -1 for tokens that were left out."""
    left_out: LeftOutCounts | None = None
    """How many were left out, and why, where that is known."""
    documents: DocumentPlaces | None = None
    """The documents that the prompts were cut from, where these are known."""

    __repr__ = short_repr

    @classmethod
    def of_kept(
        cls,
        tokens: Int[Tensor, "prompts pos"],
        kept: Bool[Tensor, "prompts pos"],
        left_out: LeftOutCounts | None = None,
    ) -> "Origins":
        """Number the tokens that are kept, prompt after prompt.

        Args:
            tokens: the prompts.
            kept: which of their tokens are rows.
            left_out: how many are not, and why; None where that is unknown.

        Returns:
            Each row's prompt and position, and each token's row.
        """
        prompt, position = kept.nonzero(as_tuple=True)
        row_at = torch.full(kept.shape, -1)
        row_at[prompt, position] = torch.arange(len(prompt))
        return cls(tokens, prompt, position, row_at, left_out)

    def document(self, row: int) -> tuple[int, str, int] | None:
        """Look up the document of a row.

        Args:
            row: its index in the sample.

        Returns:
            The document's number and name ("" for none), and the position there; None where it is not known.
        """
        if self.documents is None:
            return None
        found = self.documents.at(int(self.prompt[row]) * self.tokens.shape[1] + int(self.position[row]))
        return None if found is None else (found[0], self.documents.names.get(found[0], ""), found[1])

    def place(self, row: int) -> str:
        """Name the prompt and position of a row, for messages.

        Args:
            row: its index in the sample.

        Returns:
            Words in brackets, with a space before them.
        """
        return f" (prompt {int(self.prompt[row]):,}, position {int(self.position[row]):,})"


@dataclass(frozen=True)
class RowSample:
    """Rows of a layer, in the order in which they were drawn, with what is the same for all transcoders."""

    x: Float[Tensor, "rows d_in"]
    """What the layer reads."""
    y: Float[Tensor, "rows d_out"]
    """What it writes."""
    mean: Float[Tensor, " d_out"]
    """E y."""
    variance: float
    """E||y - mean||^2."""
    groups: Int[Tensor, " rows"]
    """The group of near-duplicates that each row belongs to (see `near_duplicates`)."""
    origins: Origins | None = None
    """Where the rows of a text come from; None for other rows."""
    memory: float = MEMORY
    """GiB that looking at the sample may take, about."""

    __repr__ = short_repr

    def __len__(self) -> int:
        return len(self.x)

    def chunks(self, d_sae: int) -> Iterator[slice]:
        """Split the sample so that a part's activations stay in a processor's cache, and a few copies of them take an
        eighth of the memory at most.

        Args:
            d_sae: the number of features.

        Returns:
            Slices that cover all rows.
        """
        row = 4 * max(1, d_sae)  # bytes
        size = max(1, min(AT_A_TIME, CACHED // row, int(self.memory * GIB / 8 / row / 4)))
        return (slice(start, min(start + size, len(self))) for start in range(0, len(self), size))

    def spread(self, n: int) -> Int[Tensor, " n_or_fewer"]:
        """Choose n rows, evenly spread over the sample.

        Args:
            n: how many; all rows where there are fewer.

        Returns:
            Their indices.
        """
        return evenly(len(self), n)

    def without_rows(self) -> "RowSample":
        """Return what pages and records need of the sample of a text: all but the rows, which take the memory.

        Returns:
            A sample of the same length whose rows are NaN, without memory of their own.
        """
        x, y = (rows.new_full((1,), torch.nan).expand(rows.shape) for rows in (self.x, self.y))
        return replace(self, x=x, y=y)

    def concentration(self) -> VarianceConcentration | None:
        """Measure whether a few rows make most of the output's variance.

        Returns:
            The measure; None where the output is the same on all rows.
        """
        if not self.variance:
            return None
        mean = self.mean.double().cpu()
        return concentration_of(
            torch.cat([(y.double().cpu() - mean).square().sum(-1) for y in self.y.split(AT_A_TIME)])
        )

    @property
    def copies(self) -> Int[Tensor, " groups"]:
        """How many rows each group has."""
        return self.groups.bincount()


def row_sample(layer: Layer, x: Float[Tensor, "rows d_in"], *, memory: float = MEMORY, seed: int = 0) -> RowSample:
    """Sample any layer at rows x.

    What a layer with hooks (`AbsNetwork`) reads and writes is read through them, so that interventions on `hook_in` and
    `hook_out` show.

    Args:
        layer: any function of rows.
        x: the rows.
        memory: GiB that looking at the sample may take, about.
        seed: decides the sketches by which near-duplicates are found.

    Returns:
        The rows, the layer's outputs, and groups of near-duplicates.

    Raises:
        ValueError: no rows; x of another width than the layer, or with NaN or Inf.
    """
    if x.ndim != 2 or not len(x):
        raise ValueError(f"the sample has shape {list(x.shape)}: pass rows, [n, d_in], one at least")
    names = ("hook_in", "hook_out")
    if all(isinstance(getattr(layer, name, None), HookPoint) for name in names):
        _, cache = layer.run_with_cache(x, names_filter=list(names))  # pyright: ignore[reportFunctionMemberAccess]
        x, y = (cache[name].detach() for name in names)
    else:
        y = layer_output(layer, x)
    return build_sample(x, y, memory=memory, seed=seed)


def build_sample(
    x: Tensor, y: Tensor, origins: Origins | None = None, *, memory: float = MEMORY, seed: int = 0
) -> RowSample:
    """Build a sample from the layer's inputs and outputs.

    Args:
        x: what the layer reads, [rows, d_in].
        y: what it writes, [rows, d_out].
        origins: where rows of a text come from; None for other rows.
        memory: GiB that looking at the sample may take, about.
        seed: decides the sketches by which near-duplicates are found.

    Returns:
        The sample, with mean, variance and groups of near-duplicates.

    Raises:
        ValueError: no rows, or NaN or Inf among them.
    """
    if not len(x):
        raise ValueError("the sample is empty: give more text, or other tokens than special ones alone")
    sketches = RowSketches(x.shape[1], seed)
    sums, squares, sketched = torch.zeros(y.shape[1], dtype=torch.float64), 0.0, []
    for start in range(0, len(x), AT_A_TIME):
        part = slice(start, start + AT_A_TIME)
        for what, rows in (("the layer's input", x[part]), ("its output", y[part])):
            if len(bad := (~rows.isfinite().all(-1)).nonzero()):
                row = start + int(bad[0])
                raise ValueError(
                    f"there is NaN or Inf among the rows: in {what}, first at row {row:,}"
                    f"{'' if origins is None else origins.place(row)}. Check the layer and its inputs"
                )
        sketched.append(sketches(x[part]))
        sums += y[part].double().sum(0).cpu()
    mean = sums / len(x)
    for some in y.split(AT_A_TIME):
        squares += (some.double().cpu() - mean).square().sum().item()
    return RowSample(x, y, mean.to(y), squares / len(x), near_duplicates(torch.cat(sketched)), origins, memory)


def allocate_rows(n_rows: int, width: int, dtype: torch.dtype, memory: float) -> Tensor:
    """Allocate a tensor to be filled, in memory or on disk.

    Args:
        n_rows: its rows.
        width: its columns.
        dtype: of its elements.
        memory: GiB; a tensor that takes more than a quarter of it lies in a file without a name, which is gone when the
            tensor is.

    Returns:
        The tensor [n_rows, width], not initialised.
    """
    if n_rows * width * dtype.itemsize <= memory * GIB / 4:
        return torch.empty(n_rows, width, dtype=dtype)
    with tempfile.TemporaryDirectory(prefix="rows-") as folder:
        file = Path(folder) / "rows"
        flat = torch.from_file(str(file), shared=True, size=n_rows * width, dtype=dtype)
        return flat.view(n_rows, width)  # the mapping holds the file, whose name goes with the folder
