"""What of a feature's pre-activation comes from the features of earlier layers: from its partners, and from others."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from scipy.sparse import csr_array
from torch import Tensor

from faithfulness_plugin.display import short_repr
from faithfulness_plugin.inspection.between.partners import Partners
from faithfulness_plugin.inspection.between.shared_rows import AtLayer
from faithfulness_plugin.inspection.between.stream_features import StreamFeatures
from faithfulness_plugin.inspection.hooked_reading import acts_at
from faithfulness_plugin.jacobian.active import ActiveFeatures, dot_active, sum_active


@dataclass(frozen=True)
class Interference:
    """Sums over the tokens n at which a feature fires, as shares; NaN for a feature that never does, or that fires by
    its bias.

    p(n) is what it reads of the stream, <W_enc^j, N r(n)>; with a_i(n) the activations of features of earlier layers at
    the same token and s(n) the size by which the norm divides there, feature i adds c_i(n) = a_i(n) <C (g * W_enc^j),
    c W_dec^i> / s(n) to it by the direct path.
    """

    partners: Float[np.ndarray, " d_sae"]
    """sum_n sum_{i a partner} c_i(n) / sum_n p(n)."""
    others: Float[np.ndarray, " d_sae"]
    """sum_n sum_{i no partner} c_i(n) / sum_n p(n)."""
    interference: Float[np.ndarray, " d_sae"]
    """(sum_n (sum_{i no partner} c_i(n))^2 / sum_n p(n)^2)^(1/2)."""

    __repr__ = short_repr


@torch.no_grad()
def measure_interference(
    each: Sequence[StreamFeatures], upstream: Sequence[Partners], parts: Iterable[Sequence[AtLayer]]
) -> list[Interference | None]:
    """Divide what features read of the stream by where it comes from.

    All features of earlier layers are summed up in the stream itself, so that no pairs are made but those of partners.

    Args:
        each: the transcoders, in the order of their layers.
        upstream: the partners of each one's features in earlier layers.
        parts: what all layers read at the same tokens, part by part.

    Returns:
        The shares, transcoder by transcoder; None for one that reads no norm of the stream.
    """
    sums = [np.zeros((5, of.d_sae)) for of in each]
    weights = [_partner_weights(each, m, of) for m, of in enumerate(upstream)]
    for part in parts:
        seen: list[Any] = []
        from_features = torch.zeros(0)
        for m, (of, (x, stream)) in enumerate(zip(each, part, strict=True)):
            W_dec = of.transcoder.W_dec
            acts = acts_at(of.transcoder, x.to(W_dec))
            active, values = _active(acts)
            if stream is not None and of.norm_in is not None:
                stream = stream.to(W_dec.device, of.dtype)
                if not len(from_features):
                    from_features = torch.zeros_like(stream)
                read, size = of.reads().contiguous(), of.norm_in.sizes(stream)[:, None]
                # <what j reads, row / s> at the tokens where j fires: of the stream, and of what features put there
                p, whole = (
                    dot_active((rows / size).contiguous(), active, read).double().cpu().numpy()
                    for rows in (stream, from_features)
                )
                known = _at(_summed(seen, weights[m], acts.shape), active) / size[active.rows, 0].double().cpu().numpy()
                _add(sums[m], active, p, known, whole - known)
            if of.written is not None:
                written = sum_active(values, active, of.writes().contiguous())
                from_features = written if not len(from_features) else from_features + written
            index = (active.features.cpu().numpy(), active.offsets.cpu().numpy())
            seen.append(csr_array((values.double().cpu().numpy(), *index), shape=acts.shape))
    return [None if of.norm_in is None else _shares(total) for of, total in zip(each, sums, strict=True)]


def _active(acts: Tensor) -> tuple[ActiveFeatures, Tensor]:
    positions = acts.flatten().nonzero().flatten()
    return ActiveFeatures.of_flat(positions, *acts.shape), acts.flatten()[positions]


def _partner_weights(each: Sequence[StreamFeatures], m: int, of: Partners) -> dict[int, Any]:
    """Return <what j reads, what i writes> of all partners, by the place of i: sparse [d_sae of i, d_sae of j]."""
    found: dict[int, Any] = {}
    for place in np.unique(of.places[of.places >= 0]).tolist():
        j, k = np.nonzero(of.places == place)
        i, source = of.features[j, k], each[place]
        pairs = zip(*(torch.from_numpy(n).to(source.transcoder.W_dec.device).split(8192) for n in (j, i)), strict=True)
        V = torch.cat([(each[m].reads(js) * source.writes(some)).sum(1) for js, some in pairs]).double().cpu().numpy()
        found[place] = csr_array((V, (i, j)), shape=(source.d_sae, each[m].d_sae))
    return found


def _summed(seen: Sequence[Any], weights: dict[int, Any], shape: tuple[int, ...]) -> Any:
    """Sum over partners of a_i V_ij: sparse [rows, d_sae]."""
    total = csr_array(shape)
    for place, V in weights.items():
        total = total + seen[place] @ V
    return csr_array(total)


def _at(matrix: Any, active: ActiveFeatures) -> np.ndarray:
    """Return the entries of a sparse matrix at active features."""
    if not len(active.features):
        return np.zeros(0)
    matrix.sort_indices()
    keys = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr)) * matrix.shape[1] + matrix.indices
    wanted = active.positions.cpu().numpy()
    at = np.searchsorted(keys, wanted).clip(0, max(0, len(keys) - 1))
    return np.where(keys[at] == wanted, matrix.data[at], 0.0) if len(keys) else np.zeros(len(wanted))


def _add(sums: np.ndarray, active: ActiveFeatures, p: np.ndarray, known: np.ndarray, others: np.ndarray) -> None:
    j = active.features.cpu().numpy()
    for n, values in enumerate((p, known, others, others**2, p**2)):
        sums[n] += np.bincount(j, values, minlength=sums.shape[1])


def _shares(sums: Float[np.ndarray, "5 d_sae"]) -> Interference:
    p, known, others, spread, squares = sums

    def share(a: np.ndarray, of: np.ndarray) -> np.ndarray:
        return np.divide(a, of, out=np.full(len(a), np.nan), where=of > 0)

    return Interference(share(known, p), share(others, p), np.sqrt(share(spread, squares)))
