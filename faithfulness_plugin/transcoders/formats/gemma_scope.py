"""Gemma Scope (google/gemma-scope-*): params.npz in layer_L/width_W/average_l0_N, JumpReLU weights without settings.

Transcoders and autoencoders have the same tensors there, and only the repository's name says which they are.
"""

import re
from pathlib import Path
from typing import Any

from sae_lens.saes.transcoder import Transcoder

from faithfulness_plugin.transcoders.formats.files import peek_names, tensors_in
from faithfulness_plugin.transcoders.formats.format import Format, Likeness, Request
from faithfulness_plugin.transcoders.formats.parts import require_autoencoder_asked, transcoder_of
from faithfulness_plugin.transcoders.formats.rule import FormatError, Tensors

TITLE = "Gemma Scope's params.npz"
WEIGHTS = "params.npz"
TENSORS = Tensors(
    needs={
        "W_enc": "d_in d_sae",
        "W_dec": "d_sae d_out",
        "b_enc": "d_sae",
        "b_dec": "d_out",
        "threshold": "d_sae",
    }
)
PUBLISHED = re.compile(r"gemma-scope-(\d+b)-(pt|it)-(transcoders|res|mlp|att)\b")
"""The repositories, which name a model and what was trained on."""
HOOKS = {
    # the gain of the norm before the MLP was folded into the MLP: the transcoders read what that gain is applied to
    "transcoders": ("ln2.hook_normalized", "hook_mlp_out"),
    "res": ("hook_resid_post", "hook_resid_post"),
    "mlp": ("hook_mlp_out", "hook_mlp_out"),
    "att": ("attn.hook_z", "attn.hook_z"),
}


def likeness(path: Path) -> Likeness:
    """By the names of its tensors."""
    file = path / WEIGHTS if path.is_dir() else path
    if file.suffix != ".npz" or not file.exists():
        return Likeness.NONE
    return Likeness.CERTAIN if peek_names(file) >= {*TENSORS.needs} else Likeness.WEIGHTS


def read(path: Path, request: Request) -> Transcoder:
    """t(x) = W_dec JumpReLU(W_enc x + b_enc) + b_dec.

    The hooks are those of the published set where the path names its repository; elsewhere the files do not say what
    they read, and none are claimed.
    """
    file = path / WEIGHTS if path.is_dir() else path
    metadata = metadata_of(file)
    if metadata.get("autoencoder"):
        require_autoencoder_asked(file, metadata["hook_name"], request)
    weights = TENSORS.check(TITLE, file, tensors_in(file), device=request.device, dtype=request.dtype)
    return transcoder_of(**weights, metadata=metadata, where=file)  # pyright: ignore[reportArgumentType]


def metadata_of(file: Path) -> dict[str, Any]:
    """What the path says: the layer, the average L0, and, in a published repository, model and hooks."""
    path = file.absolute().as_posix()
    found: dict[str, Any] = {"source": "gemma-scope"}
    layer, l0 = re.search(r"/layer_(\d+)/", path), re.search(r"/average_l0_(\d+)/", path)
    if l0:
        found["l0"] = float(l0[1])
    if layer is None or (published := PUBLISHED.search(path)) is None:
        if "/embedding/" in path and PUBLISHED.search(path):
            raise FormatError(
                f"{file} is an autoencoder of scaled embeddings, which is no layer here: SAELens's list has it with "
                "its scale"
            )
        return found | ({"layer": int(layer[1])} if layer else {})
    size, tuned, what = published.groups()
    read, written = (f"blocks.{layer[1]}.{hook}" for hook in HOOKS[what])
    found |= {"model_name": f"google/gemma-2-{size}" + "-it" * (tuned == "it")}
    found |= {"hook_name": read, "hook_name_out": written}
    return found | ({"autoencoder": True} if read == written else {})


FORMAT = Format(title=TITLE, writes=WEIGHTS, likeness=likeness, read=read, folders=(WEIGHTS,))
