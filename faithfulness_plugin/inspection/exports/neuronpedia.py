"""Neuronpedia's feature JSON: the folder of a source, as its own exports and imports have it."""

import gzip
import hashlib
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from faithfulness_plugin.atomic import new_folder
from faithfulness_plugin.errors import UsageError
from faithfulness_plugin.export_folder import ExportKind, require_place
from faithfulness_plugin.inspection.details import BINS
from faithfulness_plugin.inspection.exports.examples import (
    Band,
    FeatureExamples,
    feature_examples,
    require_text,
    rounded,
)
from faithfulness_plugin.inspection.exports.token_effects import TokenEffects, token_effects
from faithfulness_plugin.inspection.inspection import Inspection

BATCH = 1024
NEIGHBOURS = 10
LOCAL_CREATOR = "clkht01d40000jv08hvalcvly"
"""The user whom an instance of one's own begins with."""
ID = re.compile(r"[A-Za-z0-9_-]+")


class SourceId(NamedTuple):
    """What Neuronpedia calls a transcoder: MODEL/LAYER-SET."""

    model: str
    layer: int
    source_set: str

    @property
    def source(self) -> str:
        """LAYER-SET."""
        return f"{self.layer}-{self.source_set}"

    @classmethod
    def of(cls, inspection: Inspection, model_name: str, layer: int) -> "SourceId":
        """Return the id in a transcoder's metadata, or else one made of the names of model and transcoder.

        Args:
            inspection: of the transcoder.
            model_name: the model's name or folder.
            layer: the number of its block.

        Returns:
            The id, in the letters that Neuronpedia allows.
        """
        said = getattr(getattr(inspection.transcoder.cfg, "metadata", None), "neuronpedia_id", None)
        match = re.fullmatch(r"([\w-]+)/(\d+)-([\w-]+)", said) if isinstance(said, str) else None
        if match is not None:
            return cls(match[1], int(match[2]), match[3])
        names = (re.sub(r"[^A-Za-z0-9_-]+", "-", text).strip("-") for text in (Path(model_name).name, inspection.name))
        model, source_set = (name or other for name, other in zip(names, ("model", "transcoder"), strict=True))
        return cls(model.lower(), layer, source_set)


def _owner(folder: Path) -> str | None:
    try:
        source = json.loads((folder / "source.jsonl").read_text(encoding="utf-8"))
        return f"{source['id']} of {source['modelId']}"
    except (OSError, ValueError, KeyError, TypeError):
        return None


SOURCE = ExportKind(
    "Neuronpedia's files",
    r"(model|sourceset|source|release)\.jsonl|(features|activations|explanations)/batch-\d+\.jsonl\.gz",
    _owner,
)


def write_neuronpedia(
    of: Inspection,
    folder: Path,
    source: SourceId,
    *,
    token_text: Callable[[int], str] | None = None,
    text_name: str = "",
    creator: str = LOCAL_CREATOR,
    overwrite: bool = False,
) -> Path:
    """Write the features of a transcoder as Neuronpedia's database holds them.

    `folder`/MODEL/LAYER-SET gets model.jsonl, sourceset.jsonl and source.jsonl, of one line each, and for each 1,024
    features features/batch-N.jsonl.gz (a line a feature) and activations/batch-N.jsonl.gz (a line an example). Columns
    that are not known here (correlated neurons, steering vectors, ...) are left to their defaults.

    Args:
        of: of a language model's layer.
        folder: the folder of all models.
        source: what Neuronpedia is to call the transcoder (`SourceId.of`).
        token_text: `TokenText(tokenizer)`, or any function from a token id to its text.
        text_name: the text, for the record.
        creator: the id of the user who owns the features.
        overwrite: replace a source that is there.

    Returns:
        The folder of the source.

    Raises:
        UsageError: rows of no text; names with other letters than Neuronpedia allows; as `require_place`.
        OSError: the folder cannot be written.

    Source: github.com/hijohnnylin/neuronpedia at ebb8426: apps/webapp/prisma/schema.prisma (Model, SourceSet, Source,
    Neuron, Activation), apps/webapp/app/api/admin/import/route.ts, and convert-saedashboard-to-neuronpedia-export.py
    in utils/neuronpedia-utils.
    """
    origins = require_text(of.sample, "Neuronpedia")
    for name in (source.model, source.source_set):
        if ID.fullmatch(name) is None:
            raise UsageError(f"{name!r} is no id on Neuronpedia: pass one of letters, digits, _ and -")
    here = folder / source.model / source.source
    require_place(here, SOURCE, overwrite=overwrite)
    own, shared = {"modelId": source.model}, {"creatorId": creator}
    tables = {
        "model": {"id": source.model, "displayName": source.model, "displayNameShort": source.model}
        | {"layers": 0, "neuronsPerLayer": 0, "owner": "", **shared},
        "sourceset": own | {"name": source.source_set, "description": of.layer_name, "creatorName": "", **shared},
        "source": own
        | {"id": source.source, "setName": source.source_set, "dataset": text_name}
        | {"num_prompts": len(origins.tokens), "num_tokens_in_prompt": origins.tokens.shape[1], **shared},
    }
    key = own | {"layer": source.source}
    similar, cosines = nearest_decoders(of.transcoder.W_dec.detach())
    rows: dict[str, list[dict[str, Any]]] = {"features": [], "activations": []}
    with new_folder(here) as unfinished:
        for table, line in tables.items():
            (unfinished / f"{table}.jsonl").write_text(json.dumps(line) + "\n", encoding="utf-8")
        for table in rows:
            (unfinished / table).mkdir()
        for examples in feature_examples(of, origins, token_text):
            feature = examples.feature
            activations = [key | shared | line for line in _activations(of, examples, source)]
            neighbours = {
                "topkCosSimIndices": similar[feature].tolist(),
                "topkCosSimValues": rounded(cosines[feature].tolist()),
            }
            words = token_effects(of, feature, token_text)
            rows["features"].append(key | shared | _neuron(of, examples) | neighbours | _logits(words))
            rows["activations"] += activations
            if (feature + 1) % BATCH == 0 or feature + 1 == of.records.d_sae:
                for table, lines in rows.items():
                    text = "".join(json.dumps(line) + "\n" for line in lines)
                    packed = gzip.compress(text.encode(), 5, mtime=0)
                    (unfinished / table / f"batch-{feature // BATCH}.jsonl.gz").write_bytes(packed)
                    lines.clear()
    return here


def nearest_decoders(
    W_dec: Float[Tensor, "d_sae d_out"], n: int = NEIGHBOURS
) -> tuple[Int[np.ndarray, "d_sae n_or_fewer"], Float[np.ndarray, "d_sae n_or_fewer"]]:
    """Find for each feature the others whose decoder directions are most like its own.

    Args:
        W_dec: the decoder.
        n: how many; fewer where there are fewer features.

    Returns:
        The features, and the cosines, the largest first.

    Example:
        >>> import torch
        >>> nearest_decoders(torch.tensor([[1.0, 0.0], [0.0, 1.0], [3.0, 4.0]]), 1)[0].tolist()
        [[2], [2], [1]]
    """
    directions = nn.functional.normalize(W_dec.float(), dim=1)
    found = []
    for some in torch.arange(len(W_dec), device=W_dec.device).split(BATCH):
        cosines = directions[some] @ directions.T
        cosines[torch.arange(len(some)), some] = -2.0  # itself
        found.append(cosines.topk(min(n, len(W_dec) - 1), dim=1))
    nearest, cosines = (torch.cat([of[i] for of in found]).cpu().numpy() for i in (1, 0))
    return nearest, cosines


def _neuron(of: Inspection, examples: FeatureExamples) -> dict[str, Any]:
    """Return a row of the table Neuron, without its key."""
    feature, largest = examples.feature, examples.top.high
    centres = (np.arange(BINS) + 0.5) / BINS * largest
    fires = largest > 0
    return {
        "index": str(feature),
        "maxActApprox": rounded([largest])[0],
        "frac_nonzero": float(of.records.firing_rate[feature]),
        "freq_hist_data_bar_heights": of.details.histogram[feature].astype(float).tolist() if fires else [],
        "freq_hist_data_bar_values": rounded(centres.tolist()) if fires else [],
    }


def _logits(words: TokenEffects) -> dict[str, Any]:
    return {
        "pos_str": words.raised,
        "pos_values": words.raised_by,
        "neg_str": words.lowered,
        "neg_values": words.lowered_by,
    }


def _activations(of: Inspection, examples: FeatureExamples, source: SourceId) -> Iterator[dict[str, Any]]:
    """Yield a feature's rows of the table Activation, without their key. The ids are the same whenever it is written,
    so that an import does not add them twice."""
    rate = float(of.records.firing_rate[examples.feature])
    number = 0
    for band in (examples.top, *examples.below):
        for example in band.examples:
            named = f"{source.model}/{source.source}/{examples.feature}/{number}/{example}"
            number += 1
            largest = max(example.acts)
            yield {
                "id": "c" + hashlib.sha256(named.encode()).hexdigest()[:24],
                "index": str(examples.feature),
                "tokens": example.tokens,
                "values": example.acts,
                "maxValue": largest,
                "maxValueTokenIndex": example.acts.index(largest),
                "minValue": min(example.acts),
                "qualifyingTokenIndex": example.at,
                **_bin(band, rate, top=band is examples.top),
            }


def _bin(band: Band, rate: float, *, top: bool) -> dict[str, float]:
    """Return the bounds of a band, and which share of all tokens it contains; -1 stands for the top one's."""
    if top:
        return {"binMin": -1.0, "binMax": rounded([band.high])[0], "binContains": -1.0}
    low, high, contains = rounded([band.low, band.high, band.share * rate])
    return {"binMin": low, "binMax": high, "binContains": contains}
