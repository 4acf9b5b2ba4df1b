"""The feature files that circuit-tracer's front end opens: `serve(features_dir=...)`."""

import gzip
import json
import os
import shutil
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from faithfulness_plugin.atomic import new_folder
from faithfulness_plugin.errors import FormatError, UsageError
from faithfulness_plugin.export_folder import ExportKind, require_place
from faithfulness_plugin.inspection.exports.examples import (
    Band,
    FeatureExamples,
    feature_examples,
    require_text,
    rounded,
)
from faithfulness_plugin.inspection.exports.token_effects import token_effects
from faithfulness_plugin.inspection.inspection import Inspection


def _owner(folder: Path) -> str | None:
    from faithfulness_plugin.adapters.circuit_tracer.feature_files import read_index

    try:
        return next((str(of.get("of", "another set")) for of in read_index(folder).values()), None)
    except FormatError:
        return None


FEATURES = ExportKind("circuit-tracer's feature files", r"index\.json\.gz|layer_\d+\.bin", _owner)


def write_circuit_tracer_features(
    inspections: Mapping[int, Inspection],
    folder: Path,
    *,
    name: str,
    model_name: str,
    token_text: Callable[[int], str] | None = None,
    overwrite: bool = False,
) -> Path:
    """Write the features of a set's layers, or add layers to those of the same set.

    layer_N.bin has for each feature of block N the length of what follows (4 bytes, little-endian), and its JSON under
    gzip. index.json.gz says for each block the file's name and where each feature begins.

    circuit-tracer's front end takes them, in place of those of the Hub, for graphs whose `scan` begins with "/": those
    that `export_graph` writes, those of sets that circuit-tracer loads from its cache (if their config.yaml names no
    other), and whatever `create_graph_files(..., scan="/features")` writes. In a repository of the Hub the same files
    stand in a folder `features`. Releases without `features_dir` get them by `export_graph(..., features=folder)`.

    Args:
        inspections: of a language model, by the block's number.
        folder: what `serve` gets as `features_dir`.
        name: the set's.
        model_name: the model's. Layers are added to those of a set with these two names alone.
        token_text: `TokenText(tokenizer)`, or any function from a token id to its text.
        overwrite: replace the features of these layers, or of another set.

    Returns:
        The folder.

    Raises:
        UsageError: rows of no text; a folder with other files, with another set, or with one of these layers.
        OSError: it cannot be written.

    Source: `loadFeatureFromBinary`, `initFeatureExamples` and `renderActHistogram` of the front end, and
    frontend/feature_models.py and frontend/local_server.py, of circuit-tracer 0.5.0.
    """
    from faithfulness_plugin.adapters.circuit_tracer.feature_files import INDEX, read_index

    owner = f"{name} of {model_name}"
    origins = {layer: require_text(of.sample, "circuit-tracer") for layer, of in inspections.items()}
    require_place(folder, FEATURES, overwrite=overwrite, joins=owner)
    index = {layer: of for layer, of in read_index(folder).items() if of.get("of") == owner}
    there = [layer for layer in inspections if str(layer) in index]
    if there and not overwrite:
        raise UsageError(
            f"{folder} holds features of layer {there[0]} of {owner} already: choose another folder, or replace them "
            "with overwrite=True (--overwrite)"
        )
    with new_folder(folder) as unfinished:
        for kept in (of["filename"] for layer, of in index.items() if int(layer) not in inspections):
            _link(folder / kept, unfinished / kept)
        for layer, of in inspections.items():
            file, offsets = f"layer_{layer}.bin", [0]
            with (unfinished / file).open("wb") as binary:
                for examples in feature_examples(of, origins[layer], token_text):
                    shown = token_effects(of, examples.feature, token_text)
                    found = _feature(of, examples) | {"top_logits": shown.raised, "bottom_logits": shown.lowered}
                    packed = gzip.compress(
                        json.dumps({"transcoder_id": f"{name}/{layer}", **found}).encode(), 6, mtime=0
                    )
                    offsets.append(offsets[-1] + binary.write(struct.pack("<I", len(packed)) + packed))
            index[str(layer)] = {"filename": file, "offsets": offsets, "of": owner}
        index = {layer: index[layer] for layer in sorted(index, key=int)}
        (unfinished / INDEX).write_bytes(gzip.compress(json.dumps(index).encode(), mtime=0))
    return folder


def _feature(of: Inspection, examples: FeatureExamples) -> dict[str, Any]:
    """Return what the front end shows of a feature."""
    bands = {"Top activations": examples.top} | {
        f"{band.low:.3g} to {band.high:.3g}: {band.share:.1%} of activations": band for band in examples.below
    }
    return {
        "index": examples.feature,
        "examples_quantiles": [_quantile(name, band) for name, band in bands.items() if band.examples],
        "act_min": 0.0,
        "act_max": rounded([examples.top.high])[0],
        "quantile_values": examples.percentiles,
        "histogram": of.details.histogram[examples.feature].astype(float).tolist(),
        "activation_frequency": float(of.records.firing_rate[examples.feature]),
    }


def _quantile(name: str, band: Band) -> dict[str, Any]:
    return {
        "quantile_name": name,
        "examples": [
            {
                "tokens": example.tokens,
                "tokens_acts_list": example.acts,
                "train_token_ind": example.at,
                "is_repeated_datapoint": False,  # near-duplicates are shown once
            }
            for example in band.examples
        ],
    }


def _link(source: Path, target: Path) -> None:
    """Give a file a second name, or copy it where the disk has no links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
