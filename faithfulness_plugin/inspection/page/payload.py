"""What a page holds of its transcoders: arrays and names, compactly."""

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor, nn

from faithfulness_plugin.inspection.datapoint_score import FLAGGED
from faithfulness_plugin.inspection.details import AFTER, BEFORE, SHOWN, random_firings, shown_rows
from faithfulness_plugin.inspection.export import NUMBERS
from faithfulness_plugin.inspection.inspection import Inspection
from faithfulness_plugin.inspection.overview import SMALL
from faithfulness_plugin.inspection.page.between import between_of
from faithfulness_plugin.inspection.page.intervened import intervened_of, stages_of
from faithfulness_plugin.inspection.page.limited import OF_A_SET, features_in_detail, limited
from faithfulness_plugin.inspection.page.packing import packed, quantised
from faithfulness_plugin.inspection.page.words import words_of
from faithfulness_plugin.inspection.token_text import token_texts
from faithfulness_plugin.metrics.feature_recovery import LIVE_SHARE
from faithfulness_plugin.results import vocabulary

if TYPE_CHECKING:  # at run time a type is no reason to load SAELens
    from sae_lens import SAE

CHUNK = 1024
TWIN = 0.5
"""Features of two transcoders are twins if each is the other's nearest, with this product of cosines or more."""
LEAST_FAITHFUL = 10


def payload(
    inspections: Sequence[Inspection], token_text: Callable[[int], str] | None, details: int | None = None
) -> str:
    """Pack what a page shows of one transcoder, of two of one layer on one sample, or of a set.

    Args:
        inspections: one, two, or those of a set.
        token_text: gives a token id's text; None shows numbers.
        details: as in `page_html`.

    Returns:
        The packed text for the page's script.
    """
    sample = inspections[0].sample
    arrays: dict[str, np.ndarray] = {}
    meta: dict[str, Any] = {
        "transcoders": [_meta(i) for i in inspections],
        "layer": inspections[0].layer_name,
        "set": is_set(inspections),
        "rows": inspections[0].records.n_rows,
        "flagged": FLAGGED,
        "before": BEFORE,
        "after": AFTER,
        "twin": TWIN,
        "text": sample.origins is not None,
    }
    if sample.origins is not None:
        meta["vocabulary"], arrays["tokens"] = _texts(sample.origins.tokens, token_text)
        if sample.origins.left_out is not None:
            meta["left_out"] = str(sample.origins.left_out)
        if (documents := sample.origins.documents) is not None:
            meta["documents"] = {str(number): name for number, name in documents.names.items()}
            runs = {name: getattr(documents, name) for name in ("begins", "documents", "positions")}
            arrays |= _of_kind(np.int32, **{f"documents.{name}": of for name, of in runs.items()})
        meta["words"], words = words_of(inspections, token_text)
        arrays |= words
    for n, inspection in enumerate(inspections):
        arrays |= {f"{n}.{name}": array for name, array in _arrays(inspection).items()}
    if len(inspections) == 2 and not is_set(inspections):
        for n, (one, other) in enumerate((inspections, inspections[::-1])):
            arrays[f"{n}.twin"], arrays[f"{n}.twin_cosine"] = nearest_features(one.transcoder, other.transcoder)
    details = OF_A_SET if details is None and is_set(inspections) else details
    if details is not None and (chosen := features_in_detail(inspections, details)) is not None:
        arrays, meta["detailed"] = limited(arrays, chosen)
    return packed(meta, arrays)


def is_set(inspections: Sequence[Inspection]) -> bool:
    """Tell whether inspections are of several layers, with the edges between them.

    Args:
        inspections: the transcoders of a page.

    Returns:
        True for a set.
    """
    return len(inspections) > 1 and all(of.edges is not None for of in inspections)


def named(inspections: Sequence[Inspection]) -> str:
    """Name the transcoders of a page.

    Args:
        inspections: one, two, or those of a set.

    Returns:
        Their names; of a set the first and the last.
    """
    names = [of.name for of in inspections]
    return f"{names[0]} to {names[-1]}" if is_set(inspections) else " and ".join(names)


def _texts(tokens: Tensor, token_text: Callable[[int], str] | None) -> tuple[list[str], np.ndarray]:
    """Return the distinct texts of tokens, and each token's index among them: that of "" where one only continues a
    character."""
    places: dict[str, int] = {}
    at = [[places.setdefault(part, len(places)) for part in token_texts(token_text, of)] for of in tokens.tolist()]
    return list(places), np.array(at, dtype=np.uint32)


@torch.no_grad()
def nearest_features(transcoder: "SAE[Any]", other: Any) -> tuple[np.ndarray, np.ndarray]:
    """Find for each feature the other transcoder's feature whose directions are most like its own.

    Args:
        transcoder: the features to look up.
        other: the features to choose from, of the same widths.

    Returns:
        Its index, and the cosine of what they read times the cosine of what they write; 0 where they read in opposite
        directions.
    """
    unit = nn.functional.normalize
    reads, writes = unit(transcoder.W_enc.T.float(), dim=1), unit(transcoder.W_dec.float(), dim=1)
    other_reads, other_writes = unit(other.W_enc.T.float(), dim=1), unit(other.W_dec.float(), dim=1)
    # 1,024 features at a time: cosines [1024, d_sae] of what they read times those of what they write
    best = [
        ((reads[some] @ other_reads.T).clamp_min(0) * (writes[some] @ other_writes.T)).max(1)
        for some in torch.arange(len(reads)).split(CHUNK)
    ]
    cosines, which = (torch.cat(parts).cpu().numpy() for parts in zip(*best, strict=True))
    return which.astype(np.int32), cosines.astype(np.float32)


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
            vocabulary.jacobian_error("isotropic"): jacobian.relative_error,
            vocabulary.jacobian_error("data"): jacobian.relative_error_data,
            vocabulary.jacobian_cosine("isotropic"): jacobian.cosine,
            vocabulary.jacobian_cosine("data"): jacobian.cosine_data,
        },
        "least_faithful": records.least_faithful(LEAST_FAITHFUL).tolist(),
        "circuits": list(records.circuits),
        "stages": stages_of(inspection),
        "spectrum": None
        if found.spectrum is None
        else {"layer": _rounded(found.spectrum.layer), "transcoder": _rounded(found.spectrum.transcoder)},
        "projected": None if found.projection is None else list(found.projection.labels),
    }


def _arrays(inspection: Inspection) -> dict[str, np.ndarray]:
    records, details, sample, found = inspection.records, inspection.details, inspection.sample, inspection.overview
    # [d_sae, top]: -1 marks fewer top rows
    at_top, first = records.top_rows >= 0, records.top_rows.clip(0)
    copies = np.where(at_top, sample.copies[sample.groups].numpy()[first], 0)
    floats = {name: getattr(records, name) for name in (*NUMBERS, "top_activations", "circuit_cosine")}
    floats |= {name: getattr(records.datapoint, name) for name in ("score", "concentration", "alone")}
    floats |= {"bands.activations": details.bands.activations, "bands.quartiles": details.bands.quartiles}
    floats |= {"alone.activations": records.alone_activations, "unbacked": records.unbacked}
    if (faithful := records.faithfulness) is not None:
        floats |= {name: getattr(faithful, name) for name in ("faithfulness", "low", "high", "moves", "carries")}
    arrays = _of_kind(np.float32, **floats, **{"along.gain": details.along.gain})
    arrays |= _of_kind(np.int32, top_rows=records.top_rows, circuit=records.nearest_circuit, near=records.near)
    random = random_firings(records)
    arrays |= _of_kind(np.float32, **{"random.activations": random.activations})
    rows = {"bands": details.bands.rows, "alone": records.alone_rows, "random": random.rows}
    arrays |= _of_kind(np.int32, **{f"{part}.rows": of for part, of in rows.items()})
    arrays |= _of_kind(np.uint32, top_copies=copies, histogram=details.histogram)
    if sample.y.shape[1] <= SMALL:  # of wide layers they are the ones at which weights are shown
        arrays |= _of_kind(np.uint16, **{"along.coordinates": details.along.coordinates})
    for name in ("layer", "transcoder", "own"):
        arrays[f"along.{name}"], arrays[f"along.{name}.scale"] = quantised(getattr(details.along, name))
    arrays |= _weights(inspection.transcoder, details.along.coordinates)
    arrays |= between_of(inspection) | intervened_of(inspection)
    if sample.origins is not None and details.windows is not None:
        # a row's place among all tokens: prompt * pos + position
        at = (sample.origins.prompt * sample.origins.tokens.shape[1] + sample.origins.position).numpy()
        places = {"top_at": records.top_rows} | {f"{part}.at": of for part, of in rows.items()}
        arrays |= _of_kind(np.int32, **{name: np.where(of >= 0, at[of.clip(0)], -1) for name, of in places.items()})
        arrays["windows"] = details.windows
    if sample.origins is None and sample.x.shape[1] <= SMALL:
        # each row that is shown once, with its x [shown, d_in] and y [shown, d_out]
        rows = np.unique(shown_rows(records, details.bands))
        rows = rows[rows >= 0]
        x, y = (each[torch.from_numpy(rows)].float().cpu().numpy() for each in (sample.x, sample.y))
        arrays |= _of_kind(np.int32, **{"shown.rows": rows}) | {"shown.x": x, "shown.y": y}
    if (examples := found.examples) is not None:
        arrays |= _of_kind(np.int32, **{"example.rows": examples.rows})
        arrays |= {f"example.{name}": getattr(examples, name) for name in ("x", "layer", "activations")}
    if (projection := found.projection) is not None:
        live = projection.norms > LIVE_SHARE * projection.norms.max(initial=0.0)
        arrays |= _of_kind(np.float32, projection=projection.weights, residual=projection.residual)
        arrays |= _of_kind(np.int32, live=np.flatnonzero(live))
    return arrays


def _of_kind(kind: type[np.generic], **arrays: np.ndarray | None) -> dict[str, np.ndarray]:
    """Convert the arrays that are not None."""
    return {name: array.astype(kind) for name, array in arrays.items() if array is not None}


def _weights(transcoder: "SAE[Any]", written: Int[np.ndarray, "d_sae shown"]) -> dict[str, np.ndarray]:
    """Return all weights of a small transcoder, and each feature's largest of a wide one; `written` are the coordinates
    to which it writes most."""
    found: dict[str, np.ndarray] = {}
    sides = {"reads": transcoder.W_enc.detach().T, "writes": transcoder.W_dec.detach()}
    for name, weights in sides.items():
        weights = weights.float().cpu()
        if weights.shape[1] <= SMALL:
            found[name] = weights.numpy()
            continue
        # [d_sae, 16] coordinates, and the weights there
        largest = torch.from_numpy(written) if name == "writes" else weights.abs().topk(SHOWN, dim=1).indices
        found[f"{name}.coordinates"] = largest.numpy().astype(np.uint16)
        found[f"{name}.largest"], found[f"{name}.scale"] = quantised(weights.gather(1, largest).numpy())
    W_skip = getattr(transcoder, "W_skip", None)
    if W_skip is not None and max(W_skip.shape) <= SMALL:
        found["skip"] = W_skip.detach().float().cpu().numpy()
    return found


def _rounded(values: Sequence[float]) -> list[float]:
    return [float(f"{v:.4g}") for v in values]
