"""The rows on which features are looked at: what the layer reads and writes there, and which of them are alike."""

import math
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.hook_points import HookPoint

from faithfulness_plugin.inspection.near_duplicates import RowSketches, near_duplicates
from faithfulness_plugin.layers.derivatives import Layer, layer_output
from faithfulness_plugin.metrics.variance_concentration import VarianceConcentration, concentration_of
from faithfulness_plugin.store.left_out import LeftOutCounts

GIB = 2**30
MEMORY = 2.0


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


@dataclass(frozen=True)
class RowSample:
    """Rows of a layer, in the order in which they were drawn."""

    x: Float[Tensor, "rows d_in"]
    """What the layer reads."""
    y: Float[Tensor, "rows d_out"]
    """What it writes."""
    mean: Float[Tensor, " d_out"]
    """Of y."""
    variance: float
    """E||y - mean||^2."""
    groups: Int[Tensor, " rows"]
    """Of near-duplicates (see `near_duplicates`)."""
    origins: Origins | None = None
    """Of a text's rows."""
    memory: float = MEMORY
    """GiB that looking at the sample may take, about."""

    def __len__(self) -> int:
        return len(self.x)

    def chunks(self, d_sae: int) -> Iterator[slice]:
        """Parts whose activations, of which a few copies are made, take an eighth of the memory at most."""
        size = max(1, min(4096, int(self.memory * GIB / 8 / (4 * max(1, d_sae)) / 4)))
        return (slice(start, min(start + size, len(self))) for start in range(0, len(self), size))

    def spread(self, n: int) -> Int[Tensor, " n_or_fewer"]:
        """So many rows, evenly spread over all of them."""
        return torch.linspace(0, len(self) - 1, min(n, len(self))).long()

    def concentration(self) -> VarianceConcentration | None:
        """Whether a few rows make most of the output's variance; None where it is the same on all rows."""
        if not self.variance:
            return None
        mean, energy = self.mean.double().cpu(), torch.zeros(len(self), dtype=torch.float64)
        for start in range(0, len(self), 4096):
            energy[start : start + 4096] = (self.y[start : start + 4096].double().cpu() - mean).square().sum(-1)
        return concentration_of(energy)

    @property
    def copies(self) -> Int[Tensor, " groups"]:
        """How many rows each group has."""
        return self.groups.bincount()


def row_sample(layer: Layer, x: Float[Tensor, "rows d_in"], *, memory: float = MEMORY, seed: int = 0) -> RowSample:
    """A sample of any layer at rows x.

    What a layer with hooks (`AbsNetwork`) reads and writes is read through them, so that interventions on `hook_in` and
    `hook_out` show.

    Raises:
        ValueError: no rows; x of another width than the layer, or NaN and Inf.
    """
    if x.ndim != 2 or not len(x):
        raise ValueError(f"the sample has shape {list(x.shape)}: pass rows, [n, d_in], one at least")
    names = ("hook_in", "hook_out")
    if all(isinstance(getattr(layer, name, None), HookPoint) for name in names):
        _, cache = layer.run_with_cache(x, names_filter=list(names))  # pyright: ignore[reportFunctionMemberAccess]
        x, y = (cache[name].detach() for name in names)
    else:
        y = layer_output(layer, x)
    return finished_sample(x, y, memory=memory, seed=seed)


def finished_sample(
    x: Tensor, y: Tensor, origins: Origins | None = None, *, memory: float = MEMORY, seed: int = 0
) -> RowSample:
    """A sample of rows at hand. Raises ValueError as `row_sample`."""
    if not len(x):
        raise ValueError("the sample is empty: give more text, or other tokens than special ones alone")
    sketches = RowSketches(x.shape[1], seed)
    sums, squares, sketched = torch.zeros(y.shape[1], dtype=torch.float64), 0.0, []
    for start in range(0, len(x), 4096):
        part = slice(start, start + 4096)
        for what, rows in (("the layer's input", x[part]), ("its output", y[part])):
            if len(bad := (~rows.isfinite().all(-1)).nonzero()):
                raise ValueError(
                    f"there is NaN or Inf among the rows: in {what}, first at row {start + int(bad[0]):,}"
                    f"{_place(origins, start + int(bad[0]))}. Check the layer and its inputs"
                )
        sketched.append(sketches(x[part]))
        sums += y[part].double().sum(0).cpu()
    mean = sums / len(x)
    for start in range(0, len(x), 4096):
        squares += (y[start : start + 4096].double().cpu() - mean).square().sum().item()
    groups = near_duplicates(torch.cat(sketched))
    return RowSample(x, y, mean.to(y), squares / len(x), groups, origins, memory)


def _place(origins: Origins | None, row: int) -> str:
    """Say which prompt and position of a text a row is from."""
    if origins is None:
        return ""
    return f" (prompt {int(origins.prompt[row]):,}, position {int(origins.position[row]):,})"


def room_for(n_rows: int, width: int, dtype: torch.dtype, memory: float) -> Tensor:
    """[n_rows, width] to be filled: in memory where it takes a quarter of it at most, else in a file without a name,
    which is gone when the tensor is."""
    if n_rows * width * dtype.itemsize <= memory * GIB / 4:
        return torch.empty(n_rows, width, dtype=dtype)
    with tempfile.TemporaryDirectory(prefix="rows-") as folder:
        file = Path(folder) / "rows"
        flat = torch.from_file(str(file), shared=True, size=math.prod((n_rows, width)), dtype=dtype)
        return flat.view(n_rows, width)  # the mapping holds the file, whose name goes with the folder
