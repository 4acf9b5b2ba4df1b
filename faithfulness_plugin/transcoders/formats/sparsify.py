"""EleutherAI's sparsify (1.x): a folder a hookpoint, with cfg.json and sae.safetensors."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sae_lens.saes.transcoder import Transcoder
from safetensors.torch import load_file

from faithfulness_plugin.transcoders.formats.parts import FormatError, centred, require_keys, transcoder_of

TITLE = "a sparsify folder"
WEIGHTS = "sae.safetensors"


def read(folder: Path, config: Mapping[str, Any], device: str) -> Transcoder:
    """t(x) = W_dec TopK(ReLU(W_enc x + b_enc)) + b_dec (+ W_skip x); an autoencoder's encoder subtracts b_dec first.

    Args:
        config: what cfg.json says.

    Raises:
        FormatError: keys are missing, or features are chosen by "groupmax", which no SAELens class does.
    """
    require_keys(TITLE, folder / "cfg.json", config, "k", "d_in")
    if (activation := config.get("activation", "topk")) != "topk":
        raise FormatError(f"{folder / 'cfg.json'}: activation {activation} has no counterpart here; topk has")
    weights = load_file(folder / WEIGHTS, device=device)
    require_keys(TITLE, folder / WEIGHTS, weights, "encoder.weight", "encoder.bias", "W_dec", "b_dec")
    W_enc, b_enc = weights["encoder.weight"].mT, weights["encoder.bias"]
    return transcoder_of(
        W_enc=W_enc,
        b_enc=b_enc if config.get("transcode", False) else centred(b_enc, W_enc, weights["b_dec"]),
        W_dec=weights["W_dec"],
        b_dec=weights["b_dec"],
        W_skip=weights.get("W_skip"),
        k=config["k"],
        metadata={"source": "sparsify", "hookpoint": _hookpoint(folder.resolve())},
    )


def _hookpoint(folder: Path) -> str:
    """What the folder is named after; where several seeds are trained, each has one of its own in it."""
    return folder.parent.name if re.fullmatch(r"seed\d+", folder.name) else folder.name
