"""EleutherAI's sparsify (1.x): a folder a hookpoint, with cfg.json and sae.safetensors."""

import re
from pathlib import Path

from sae_lens.saes.transcoder import Transcoder

from faithfulness_plugin.transcoders.formats.files import peek_names, settings_in, tensors_in
from faithfulness_plugin.transcoders.formats.format import Format, Likeness, Request
from faithfulness_plugin.transcoders.formats.parts import (
    centred,
    require_autoencoder_asked,
    require_transcoder_asked,
    transcoder_of,
)
from faithfulness_plugin.transcoders.formats.rule import Settings, Tensors

TITLE = "a sparsify folder"
CONFIG = "cfg.json"
WEIGHTS = "sae.safetensors"
SETTINGS = Settings(
    needs=("k", "d_in"),
    reads=("num_latents", "transcode", "skip_connection"),
    only={
        "activation": ("topk",),  # "groupmax" keeps one feature of each group, which no SAELens class does
        "signed": (False,),  # without the ReLU: features below 0 stay
        "embed_skip": (False,),  # adds a map of the embedding to the output
        "gram_lookup": (False,),  # subtracts a table by n-grams from the target
    },
    # multi_topk adds a loss; the decoder's rows are normalised in training, and stored so
    harmless=("expansion_factor", "normalize_decoder", "multi_topk", "lookup_max_order", "gram_table_hash"),
)
TENSORS = Tensors(
    needs={"encoder.weight": "d_sae d_in", "encoder.bias": "d_sae", "W_dec": "d_sae d_out", "b_dec": "d_out"},
    reads={"W_skip": "d_out d_in"},
)


def likeness(path: Path) -> Likeness:
    """By the name of its weights; its cfg.json alone may be another library's."""
    folder = path if path.is_dir() else path.parent
    if path != folder and path.name not in (CONFIG, WEIGHTS):
        return Likeness.NONE
    if (folder / WEIGHTS).exists():
        return Likeness.CERTAIN if peek_names(folder / WEIGHTS) >= {*TENSORS.needs} else Likeness.WEIGHTS
    return Likeness.SETTINGS if (folder / CONFIG).exists() else Likeness.NONE


def read(path: Path, request: Request) -> Transcoder:
    """t(x) = W_dec TopK(ReLU(W_enc x + b_enc)) + b_dec (+ W_skip x); an autoencoder's encoder subtracts b_dec first."""
    folder = path if path.is_dir() else path.parent
    file = folder / WEIGHTS
    config = SETTINGS.check(TITLE, folder / CONFIG, settings_in(TITLE, folder / CONFIG))
    hookpoint = _hookpoint(folder.resolve())
    autoencoder = not config.get("transcode", False)
    if autoencoder:
        require_autoencoder_asked(folder / CONFIG, f"{hookpoint} (transcode: false)", request)
    else:
        require_transcoder_asked(folder / CONFIG, "transcode: true", request)
    sizes = {"d_in": (config["d_in"], f"d_in in {CONFIG}")}
    if config.get("num_latents"):
        sizes["d_sae"] = (config["num_latents"], f"num_latents in {CONFIG}")
    weights = TENSORS.check(TITLE, file, tensors_in(file), sizes=sizes, device=request.device, dtype=request.dtype)
    W_enc, b_enc = weights["encoder.weight"].mT, weights["encoder.bias"]
    return transcoder_of(
        W_enc=W_enc,
        b_enc=centred(b_enc, W_enc, weights["b_dec"]) if autoencoder else b_enc,
        W_dec=weights["W_dec"],
        b_dec=weights["b_dec"],
        W_skip=weights.get("W_skip"),
        k=config["k"],
        metadata={"source": "sparsify", "hookpoint": hookpoint, **({"autoencoder": True} if autoencoder else {})},
        where=file,
    )


def _hookpoint(folder: Path) -> str:
    """What the folder is named after; where several seeds are trained, each has one of its own in it."""
    return folder.parent.name if re.fullmatch(r"seed\d+", folder.name) else folder.name


FORMAT = Format(title=TITLE, writes=f"{CONFIG} and {WEIGHTS}", likeness=likeness, read=read, folders=(WEIGHTS,))
