"""All activations of a transcoder on a sample, without zeros: read in one pass, and all that is said of its features is
computed from them."""

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.sparse import csr_array
from torch import Tensor

from faithfulness_plugin.display import short_repr
from faithfulness_plugin.inspection.hooked_reading import acts_and_output, acts_at, rows_of
from faithfulness_plugin.inspection.sample import GIB, RowSample
from faithfulness_plugin.jacobian.active import ActiveFeatures, sum_active
from faithfulness_plugin.jacobian.gram import jacobian_by_feature
from faithfulness_plugin.jacobian.linear_region import Weights, add_skip, known_region

if TYPE_CHECKING:  # at run time a type is no reason to load SAELens
    from sae_lens import SAE

JACOBIAN_ROWS = 16_384
"""Rows for the shares of the Jacobian at most, evenly spread."""
CHECKED_ROWS = 32
ENTRY = 64
"""Bytes that are made of an activation at a time."""
ROWS = 16_384
"""Rows of a part at most."""
MOST_ACTIVE = 1 / 16
"""Where more of the features are active, a whole product with the decoder is quicker than their sum."""


@dataclass(frozen=True)
class Activations:
    """The activations [rows, d_sae] that are not 0, row after row."""

    values: Float[Tensor, " entries"]
    """In single precision at least."""
    features: Int[Tensor, " entries"]
    offsets: Int[Tensor, " rows_and_1"]
    """Row n has the entries offsets[n] up to offsets[n + 1]."""
    d_sae: int

    __repr__ = short_repr

    def part(self, rows: slice) -> Any:
        """Return the activations of some rows.

        Args:
            rows: which, a slice with both ends.

        Returns:
            A sparse matrix [some_rows, d_sae].
        """
        offsets = self.offsets[rows.start : rows.stop + 1].numpy()
        entries = slice(int(offsets[0]), int(offsets[-1]))
        index = (self.values[entries].numpy(), self.features[entries].numpy(), offsets - offsets[0])
        return csr_array(index, shape=(len(offsets) - 1, self.d_sae))

    def parts(self, memory: float) -> Iterator[slice]:
        """Split the rows so that what is made of a part's activations takes an eighth of the memory at most.

        Args:
            memory: GiB.

        Returns:
            Slices that cover all rows.
        """
        n_rows = len(self.offsets) - 1
        entries = memory * GIB / 8 / ENTRY
        size = max(1, min(ROWS, int(entries * n_rows / max(1, len(self.values)))))
        return (slice(start, min(start + size, n_rows)) for start in range(0, n_rows, size))

    def active_at(self, rows: Int[Tensor, " some"], device: torch.device | str = "cpu") -> ActiveFeatures:
        """Return which features are active on some rows.

        Args:
            rows: which, in any order.
            device: where the index goes.

        Returns:
            The index of these rows.
        """
        first, counts = self.offsets[rows], self.offsets[rows + 1] - self.offsets[rows]
        offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        # entry k of a row is entry first + k of all
        entries = torch.arange(int(offsets[-1])) + torch.repeat_interleave(first - offsets[:-1], counts)
        return ActiveFeatures(self.features[entries].long().to(device), offsets.to(device), self.d_sae)


@dataclass(frozen=True)
class SampleReading:
    """What one pass of a transcoder over a sample gives."""

    activations: Activations
    squared_error: float
    """sum over rows of ||t - f||^2."""
    jacobian_parts: Float[Tensor, " d_sae"]
    """sum over some of the rows of <g_i W_dec^i (x) W_enc^i, J_t> (see `jacobian_by_feature`)."""
    jacobian_norm: float
    """sum over the same rows of ||J_t||_F^2."""

    __repr__ = short_repr


@torch.no_grad()
def read_sample(
    transcoder: "SAE[Any]", sample: RowSample, on_rows: Callable[[int], None] = lambda _: None
) -> SampleReading:
    """Read a transcoder's activations at all rows of a sample, in one pass.

    Activations are those that `hook_sae_acts_post` carries, so that hooks on it show. The output is what they give:
    the transcoder's own decoder runs where it is not the sum of what active features write.

    Args:
        transcoder: with dense activations, in `eval` mode.
        sample: rows of the layer that it replaces.
        on_rows: receives the number of rows after each part.

    Returns:
        Activations, the squared error of the output, and the features' shares of the transcoder's Jacobian.

    Raises:
        ValueError: the transcoder's linear regions are not known.
    """
    d_sae, device = len(transcoder.W_dec), transcoder.W_dec.device
    weights = _decoder(transcoder, sample.x[:CHECKED_ROWS].to(transcoder.W_dec))
    jacobian_parts, jacobian_norm, error = torch.zeros(d_sae, dtype=torch.float64), 0.0, 0.0
    for_jacobian, counts = torch.zeros(len(sample), dtype=torch.bool), [torch.zeros(1, dtype=torch.int64)]
    for_jacobian[sample.spread(JACOBIAN_ROWS)] = True
    with _Growing(_dtype(transcoder)) as values, _Growing(np.int32) as features:
        for part, x in rows_of(sample, transcoder):
            acts, t = (acts_at(transcoder, x), x) if weights is not None else acts_and_output(transcoder, x)
            active, some = _entries(acts)
            if weights is not None:
                t = _output(x, active, some, weights)
            error += (t.double() - sample.y[part].to(device).double()).square().sum().item()
            if (chosen := for_jacobian[part]).any():
                # <g_i W_dec^i (x) W_enc^i, J_t> summed over rows, [d_sae], and ||J_t||_F^2
                of_features, of_all = jacobian_by_feature(known_region(transcoder, x[chosen], gate=acts[chosen]))
                jacobian_parts += of_features.double().cpu()
                jacobian_norm += of_all.item()
            values.add(some.to(torch.promote_types(some.dtype, torch.float32)).cpu().numpy())
            features.add(active.features.cpu().numpy())
            counts.append(active.offsets.diff().cpu())
            on_rows(len(acts))
        activations = Activations(values.whole(), features.whole(), torch.cat(counts).cumsum(0), d_sae)
    return SampleReading(activations, error, jacobian_parts, jacobian_norm)


def row_numbers(acts: Any, first_row: int) -> Int[np.ndarray, " entries"]:
    """Return the row in the sample of each entry of a part's activations.

    Args:
        acts: a sparse matrix [some_rows, d_sae].
        first_row: the index in the sample of the first of these rows.

    Returns:
        The rows, ascending.
    """
    return np.repeat(np.arange(acts.shape[0]), np.diff(acts.indptr)) + first_row


def _dtype(transcoder: "SAE[Any]") -> Any:
    return np.float64 if transcoder.W_dec.dtype == torch.float64 else np.float32


def _entries(acts: Float[Tensor, "rows d_sae"]) -> tuple[ActiveFeatures, Float[Tensor, " entries"]]:
    """Return where activations are not 0, and what they are."""
    positions = acts.flatten().nonzero().flatten()  # in [rows * d_sae]
    return ActiveFeatures.of_flat(positions, *acts.shape), acts.flatten()[positions]


def _output(x: Tensor, active: ActiveFeatures, values: Tensor, weights: Weights) -> Float[Tensor, "rows d_out"]:
    """Compute the output from active features alone."""
    return add_skip(sum_active(values, active, weights.W_dec.contiguous()) + weights.b_dec, x, weights.W_skip)


def _decoder(transcoder: "SAE[Any]", x: Float[Tensor, "rows d_in"]) -> Weights | None:
    """Return the weights by which active features give the output; None where they do not at these rows, as with hooks
    on the output, or where many are active."""
    acts, t = acts_and_output(transcoder, x)
    weights = known_region(transcoder, x, gate=acts).weights
    active, values = _entries(acts)
    if len(values) > MOST_ACTIVE * acts.numel():
        return None
    same = torch.isclose(_output(x, active, values, weights), t, rtol=1e-4, atol=1e-5 * t.abs().max().item()).all()
    return weights if same else None


class _Growing:
    """An array that grows part by part, in a file without a name, which is gone when the array is."""

    def __init__(self, dtype: Any) -> None:
        self.dtype = np.dtype(dtype)

    def __enter__(self) -> "_Growing":
        self.file = tempfile.TemporaryFile()
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def add(self, numbers: np.ndarray) -> None:
        self.file.write(np.ascontiguousarray(numbers, dtype=self.dtype).data)

    def whole(self) -> Tensor:
        """Return what was added, which stays when the file is closed."""
        self.file.flush()
        n = self.file.tell() // self.dtype.itemsize
        return torch.from_numpy(np.memmap(self.file, self.dtype, "r+", shape=(n,)) if n else np.empty(0, self.dtype))
