"""Gemma Scope (google/gemma-scope-*): params.npz in layer_L/width_W/average_l0_N, JumpReLU weights without settings.

Transcoders and autoencoders have the same tensors there, and only the repository's name says which they are.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from typing_extensions import override

from faithfulness_plugin.transcoders.formats.errors import FormatError
from faithfulness_plugin.transcoders.formats.format import Files, Format, Function
from faithfulness_plugin.transcoders.formats.schema import Tensors

TENSORS = Tensors({"W_enc": "d d_sae", "W_dec": "d_sae d", "b_enc": "d_sae", "b_dec": "d", "threshold": "d_sae"})
PUBLISHED = re.compile(r"gemma-scope-(\d+b)-(pt|it)-(transcoders|res|mlp|att)\b")
"""The repositories, which name a model and what was trained on."""
HOOKS = {
    # the gain of the norm before the MLP was folded into the MLP: the transcoders read what that gain is applied to
    "transcoders": ("ln2.hook_normalized", "hook_mlp_out"),
    "res": ("hook_resid_post", "hook_resid_post"),
    "mlp": ("hook_mlp_out", "hook_mlp_out"),
    "att": ("attn.hook_z", "attn.hook_z"),
}


class GemmaScope(Format):
    """t(x) = W_dec JumpReLU(W_enc x + b_enc) + b_dec.

    The hooks are those of the published set where the path names its repository; elsewhere the files do not say what
    they read, and none are claimed.
    """

    title = "Gemma Scope's params.npz"
    source = "gemma-scope"
    writes = "params.npz"
    weights = ("params.npz",)
    other_names = ("*.npz",)
    own_tensors = frozenset(TENSORS.needs)

    @override
    def function(self, config: Mapping[str, Any], found: Mapping[str, Any], files: Files) -> Function:
        metadata = _metadata_of(files.weights)
        read, written = metadata.get("hook_name"), metadata.get("hook_name_out")
        return Function(TENSORS, metadata=metadata, autoencoder=read if read == written else None)


def _metadata_of(file: Path) -> dict[str, Any]:
    """Return what the path says: the layer, the average L0, and, in a published repository, model and hooks."""
    path = file.absolute().as_posix()
    layer, l0 = re.search(r"/layer_(\d+)/", path), re.search(r"/average_l0_(\d+)/", path)
    found: dict[str, Any] = {"l0": float(l0[1])} if l0 else {}
    published = PUBLISHED.search(path)
    if published and "/embedding/" in path:
        raise FormatError(
            f"{file} is an autoencoder of scaled embeddings, which is no layer here: SAELens's list has it with its "
            "scale"
        )
    if layer is None or published is None:
        return found | ({"layer": int(layer[1])} if layer else {})
    size, tuned, what = published.groups()
    read, written = (f"blocks.{layer[1]}.{hook}" for hook in HOOKS[what])
    model = f"google/gemma-2-{size}" + "-it" * (tuned == "it")
    return {**found, "model_name": model, "hook_name": read, "hook_name_out": written}
