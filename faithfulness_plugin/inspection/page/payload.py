"""What a page holds of its transcoders: arrays and names, compactly."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from faithfulness_plugin.inspection.datapoint_score import FLAGGED
from faithfulness_plugin.inspection.details import AFTER, BEFORE, SHOWN
from faithfulness_plugin.inspection.export import NUMBERS
from faithfulness_plugin.inspection.inspection import Inspection
from faithfulness_plugin.inspection.overview import SMALL
from faithfulness_plugin.inspection.page.packing import packed, quantised
from faithfulness_plugin.inspection.token_text import shown
from faithfulness_plugin.metrics.feature_recovery import LIVE_SHARE

CHUNK = 1024


def payload(inspections: Sequence[Inspection], token_text: Callable[[int], str] | None) -> str:
    """Of one transcoder, or of two of one layer on one sample."""
    sample = inspections[0].sample
    arrays: dict[str, np.ndarray] = {}
    meta: dict[str, Any] = {
        "transcoders": [_meta(i) for i in inspections],
        "layer": inspections[0].layer_name,
        "rows": len(sample),
        "flagged": FLAGGED,
        "before": BEFORE,
        "after": AFTER,
        "text": sample.origins is not None,
    }
    if sample.origins is not None:
        meta["vocabulary"], arrays["tokens"] = _texts(sample.origins.tokens, token_text)
        if sample.origins.left_out is not None:
            meta["left_out"] = str(sample.origins.left_out)
    for n, inspection in enumerate(inspections):
        arrays |= {f"{n}.{name}": array for name, array in _arrays(inspection).items()}
    if len(inspections) == 2:
        for n, (one, other) in enumerate((inspections, inspections[::-1])):
            arrays[f"{n}.twin"], arrays[f"{n}.twin_cosine"] = nearest_features(one.transcoder, other.transcoder)
    return packed(meta, arrays)


def _texts(tokens: Tensor, token_text: Callable[[int], str] | None) -> tuple[list[str], np.ndarray]:
    """All that is shown of some token, once each, and which of it is shown of each token: "" of one that only continues
    a character."""
    places: dict[str, int] = {}
    at = [[places.setdefault(part, len(places)) for part in shown(token_text, of)] for of in tokens.tolist()]
    return list(places), np.array(at, dtype=np.uint32)


@torch.no_grad()
def nearest_features(transcoder: Any, other: Any) -> tuple[np.ndarray, np.ndarray]:
    """Of each feature, the other transcoder's whose directions are most like its own: (which, cosine of what they read
    times cosine of what they write; 0 where they read in opposite directions)."""
    unit = nn.functional.normalize
    reads, writes = unit(transcoder.W_enc.T.float(), dim=1), unit(transcoder.W_dec.float(), dim=1)
    other_reads, other_writes = unit(other.W_enc.T.float(), dim=1), unit(other.W_dec.float(), dim=1)
    found, cosines = [], []
    for some in torch.arange(len(reads)).split(CHUNK):
        both = (reads[some] @ other_reads.T).clamp_min(0) * (writes[some] @ other_writes.T)
        best = both.max(1)
        found.append(best.indices)
        cosines.append(best.values)
    return torch.cat(found).cpu().numpy().astype(np.int32), torch.cat(cosines).cpu().numpy().astype(np.float32)


def _meta(inspection: Inspection) -> dict[str, Any]:
    records, found, transcoder = inspection.records, inspection.overview, inspection.transcoder
    jacobian = found.jacobian
    return {
        "name": inspection.name,
        "architecture": transcoder.cfg.architecture(),
        "d_in": len(transcoder.W_enc),
        "d_sae": records.d_sae,
        "d_out": transcoder.W_dec.shape[1],
        "skip": getattr(transcoder, "W_skip", None) is not None,
        "neuronpedia": inspection.neuronpedia,
        "scores": {
            "FVU": records.fvu if math.isfinite(records.fvu) else None,
            "L0": records.l0,
            "dead features": int(records.dead.sum()),
            "flagged features": int(records.flagged.sum()),
            "Jacobian error": jacobian.relative_error,
            "Jacobian error, data": jacobian.relative_error_data,
            "Jacobian cosine": jacobian.cosine,
            "Jacobian cosine, data": jacobian.cosine_data,
        },
        "circuits": list(records.circuits),
        "spectrum": None
        if found.spectrum is None
        else {"layer": _rounded(found.spectrum.layer), "transcoder": _rounded(found.spectrum.transcoder)},
        "projected": None if found.projection is None else list(found.projection.labels),
    }


def _arrays(inspection: Inspection) -> dict[str, np.ndarray]:
    records, details, sample = inspection.records, inspection.details, inspection.sample
    numbers = {name: getattr(records, name) for name in NUMBERS}
    numbers |= {name: getattr(records.datapoint, name) for name in ("score", "concentration", "alone")}
    arrays: dict[str, np.ndarray] = {name: array.astype(np.float32) for name, array in numbers.items()}
    copies = sample.copies[sample.groups].numpy()
    there = records.top_rows >= 0
    arrays["top_rows"] = records.top_rows.astype(np.int32)
    arrays["top_activations"] = records.top_activations.astype(np.float32)
    arrays["top_copies"] = np.where(there, copies[records.top_rows.clip(0)], 0).astype(np.uint32)
    arrays["histogram"] = details.histogram.astype(np.uint32)
    if records.nearest_circuit is not None and records.circuit_cosine is not None:
        arrays["circuit"] = records.nearest_circuit.astype(np.int32)
        arrays["circuit_cosine"] = records.circuit_cosine.astype(np.float32)
    if sample.origins is not None and details.windows is not None:
        of, n_pos = sample.origins, sample.origins.tokens.shape[1]
        at = (of.prompt * n_pos + of.position).numpy()
        arrays["top_at"] = np.where(there, at[records.top_rows.clip(0)], -1).astype(np.int32)
        arrays["windows"] = details.windows
    along = details.along
    arrays["along.coordinates"] = along.coordinates.astype(np.uint16)
    for name in ("layer", "transcoder", "own"):
        arrays[f"along.{name}"], arrays[f"along.{name}.scale"] = quantised(getattr(along, name))
    arrays["along.gain"] = along.gain.astype(np.float32)
    arrays |= _weights(inspection.transcoder)
    if (examples := inspection.overview.examples) is not None:
        arrays["example.rows"] = examples.rows.astype(np.int32)
        arrays["example.x"], arrays["example.layer"] = examples.x, examples.layer
        arrays["example.activations"] = examples.activations
    if sample.origins is None and sample.x.shape[1] <= SMALL:
        shown = np.unique(records.top_rows[there])
        arrays["shown.rows"] = shown.astype(np.int32)
        arrays["shown.x"] = sample.x[torch.from_numpy(shown)].float().cpu().numpy()
        arrays["shown.y"] = sample.y[torch.from_numpy(shown)].float().cpu().numpy()
    if (projection := inspection.overview.projection) is not None:
        arrays["projection"] = projection.weights.astype(np.float32)
        live = projection.norms > LIVE_SHARE * projection.norms.max(initial=0.0)
        arrays["live"] = np.flatnonzero(live).astype(np.int32)
        arrays["residual"] = projection.residual.astype(np.float32)
    return arrays


def _weights(transcoder: Any) -> dict[str, np.ndarray]:
    """All of a small transcoder's; of a wide one each feature's largest."""
    found: dict[str, np.ndarray] = {}
    sides = {"reads": transcoder.W_enc.detach().T, "writes": transcoder.W_dec.detach()}
    for name, weights in sides.items():
        weights = weights.float().cpu()
        if weights.shape[1] <= SMALL:
            found[name] = weights.numpy()
            continue
        largest = weights.abs().topk(SHOWN, dim=1).indices
        found[f"{name}.coordinates"] = largest.numpy().astype(np.uint16)
        found[f"{name}.largest"], found[f"{name}.scale"] = quantised(weights.gather(1, largest).numpy())
    W_skip = getattr(transcoder, "W_skip", None)
    if W_skip is not None and max(W_skip.shape) <= SMALL:
        found["skip"] = W_skip.detach().float().cpu().numpy()
    return found


def _rounded(values: Sequence[float]) -> list[float]:
    return [float(f"{v:.4g}") for v in values]
