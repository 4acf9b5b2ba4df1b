"""dictionary_learning (0.1.x): a folder with config.json and ae.pt, whose keys depend on the dictionary's class."""

import json
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from sae_lens.saes.transcoder import Transcoder
from torch import Tensor

from faithfulness_plugin.transcoders.formats.parts import FormatError, centred, require_keys, transcoder_of

TITLE = "a dictionary_learning folder"
WEIGHTS = "ae.pt"
CONFIG = "config.json"

Parts = dict[str, Any]


def read(folder: Path, device: str, weights_file: Path | None = None) -> Transcoder:
    """Any of its dictionaries as a SAELens transcoder that computes the same function.

    Args:
        weights_file: a checkpoint; ae.pt where none is given.

    Raises:
        FormatError: keys are missing, a class that is not known here, a file that is no state dict.
    """
    try:
        config = json.loads((folder / CONFIG).read_text())["trainer"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FormatError(
            f"{folder / CONFIG} cannot be read, or has no key trainer: {TITLE} has one, and dict_class in it says what "
            f"{WEIGHTS} is"
        ) from error
    require_keys(TITLE, folder / CONFIG, config, "dict_class")
    if config["dict_class"] not in READERS:
        raise FormatError(
            f"{folder / CONFIG}: dict_class {config['dict_class']} is not known: choose from {', '.join(READERS)}"
        )
    path = weights_file or folder / WEIGHTS
    try:
        weights = torch.load(path, map_location=device, weights_only=True)
    except (OSError, RuntimeError, pickle.UnpicklingError, EOFError) as error:
        raise FormatError(
            f"{path} looks like {TITLE}'s weights, and is no state dict ({type(error).__name__})"
        ) from error
    # both ReLU dictionaries are saved as AutoEncoder: AutoEncoderNew is the one with a decoder bias of its own
    require_keys(TITLE, path, weights)
    renamed = config["dict_class"] == "AutoEncoder" and "decoder.bias" in weights
    dict_class = "AutoEncoderNew" if renamed else config["dict_class"]
    names, parts = READERS[dict_class]
    require_keys(f"{TITLE}'s {dict_class}", path, weights, *names)
    told = {name: config[name] for name in ("lm_name", "layer", "submodule_name") if config.get(name) is not None}
    return transcoder_of(**parts(weights), metadata={"source": "dictionary_learning", **told})


def _relu(weights: Mapping[str, Tensor]) -> Parts:
    """f = ReLU(W (x - bias) + b), y = D f + bias."""
    W_enc = weights["encoder.weight"].mT
    return {
        "W_enc": W_enc,
        "b_enc": centred(weights["encoder.bias"], W_enc, weights["bias"]),
        "W_dec": weights["decoder.weight"].mT,
        "b_dec": weights["bias"],
    }


def _relu_new(weights: Mapping[str, Tensor]) -> Parts:
    """f = ReLU(W x + b), y = D f + c."""
    return {
        "W_enc": weights["encoder.weight"].mT,
        "b_enc": weights["encoder.bias"],
        "W_dec": weights["decoder.weight"].mT,
        "b_dec": weights["decoder.bias"],
    }


def _gated(weights: Mapping[str, Tensor]) -> Parts:
    """f = 1[u + gate_bias > 0] ReLU(e^r u + mag_bias) with u = W (x - c): a JumpReLU of z = e^r u + mag_bias whose
    threshold is mag_bias - e^r gate_bias, where that is above 0 (S. Rajamanoharan et al., "Improving Dictionary
    Learning with Gated Sparse Autoencoders", 2024)."""
    slope = weights["r_mag"].exp()
    W_enc = weights["encoder.weight"].mT * slope
    return {
        "W_enc": W_enc,
        "b_enc": centred(weights["mag_bias"], W_enc, weights["decoder_bias"]),
        "W_dec": weights["decoder.weight"].mT,
        "b_dec": weights["decoder_bias"],
        "threshold": (weights["mag_bias"] - slope * weights["gate_bias"]).clamp_min(0),
    }


def _jumprelu(weights: Mapping[str, Tensor]) -> Parts:
    """f = ReLU(z 1[z > threshold]) with z = W x + b."""
    parts = {name: weights[name] for name in ("W_enc", "b_enc", "W_dec", "b_dec")}
    return {**parts, "threshold": weights["threshold"].clamp_min(0)}


def _topk(weights: Mapping[str, Tensor]) -> Parts:
    """f = TopK(ReLU(W (x - c) + b)), y = D f + c."""
    W_enc = weights["encoder.weight"].mT
    return {
        "W_enc": W_enc,
        "b_enc": centred(weights["encoder.bias"], W_enc, weights["b_dec"]),
        "W_dec": weights["decoder.weight"].mT,
        "b_dec": weights["b_dec"],
        "k": int(weights["k"]),
    }


def _batch_topk(weights: Mapping[str, Tensor]) -> Parts:
    """As TopK, but with the learned threshold for all features; below 0 it was not learned, and keeps all."""
    parts = _topk(weights)
    del parts["k"]
    return {**parts, "threshold": weights["threshold"].clamp_min(0).to(parts["b_enc"]).expand(len(parts["b_enc"]))}


ENCODER, DECODER = ("encoder.weight", "encoder.bias"), "decoder.weight"
READERS: dict[str, tuple[tuple[str, ...], Callable[[Mapping[str, Tensor]], Parts]]] = {
    "AutoEncoder": ((*ENCODER, DECODER, "bias"), _relu),
    "AutoEncoderNew": ((*ENCODER, DECODER, "decoder.bias"), _relu_new),
    "GatedAutoEncoder": (("encoder.weight", DECODER, "decoder_bias", "r_mag", "gate_bias", "mag_bias"), _gated),
    "JumpReluAutoEncoder": (("W_enc", "b_enc", "W_dec", "b_dec", "threshold"), _jumprelu),
    "AutoEncoderTopK": ((*ENCODER, DECODER, "b_dec", "k"), _topk),
    "BatchTopKSAE": ((*ENCODER, DECODER, "b_dec", "threshold"), _batch_topk),
}
"""Of each class: the keys that it needs, and what they make."""
