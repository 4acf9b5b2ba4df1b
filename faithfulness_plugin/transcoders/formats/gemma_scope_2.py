"""Gemma Scope 2 (google/gemma-scope-2-*): config.json and params.safetensors, JumpReLU, with or without an affine
connection."""

import re
from collections.abc import Mapping
from typing import Any

from typing_extensions import override

from faithfulness_plugin.transcoders.formats.errors import FormatError, Where
from faithfulness_plugin.transcoders.formats.files import tensors_in
from faithfulness_plugin.transcoders.formats.format import Files, Format, Function
from faithfulness_plugin.transcoders.formats.schema import Settings, Tensors

SKIP = "affine_skip_connection"
TENSORS = {"w_enc": "d d_sae", "w_dec": "d_sae d", "b_enc": "d_sae", "b_dec": "d", "threshold": "d_sae"}
AFFINE = {**TENSORS, "w_enc": "d_in d_sae", "w_dec": "d_sae d_out", "b_dec": "d_out", SKIP: "d_in d_out"}
PUBLISHED = re.compile(r"gemma-scope-2-(\d+[mb])-(pt|it)\b.*/transcoder(?:_all)?/layer_(\d+)_[^/]*$")
"""Folders that need no config.json, because their names say the same; some were published so."""


class GemmaScope2(Format):
    """t(x) = W_dec JumpReLU(W_enc x + b_enc) + b_dec (+ A^T x, with the affine connection A [d_in, d_out])."""

    title = "a Gemma Scope 2 folder"
    source = "gemma-scope-2"
    writes = "config.json and params.safetensors"
    configs = ("config.json",)
    weights = ("params.safetensors",)
    other_names = ("*.safetensors",)
    own_settings = frozenset({"hf_hook_point_in"})
    own_tensors = frozenset(TENSORS)
    settings = Settings(
        needs="architecture model_name hf_hook_point_in",
        reads="type hf_hook_point_out affine_connection l0",
        only={"architecture": ("jump_relu",)},
        sizes={"d_sae": "width"},
    )

    @override
    def opened(self, files: Files) -> tuple[Mapping[str, Any], Any]:
        published = PUBLISHED.search(files.folder.absolute().as_posix())
        if published is None or (files.config is not None and files.config.exists()):
            return super().opened(files)
        size, tuned, layer = published.groups()
        norm = f"model.layers.{layer}.%s_feedforward_layernorm.output"
        config = {"model_name": f"gemma-v3-{size}-{tuned}", "type": "transcoder"}
        hooks = {"hf_hook_point_in": norm % "pre", "hf_hook_point_out": norm % "post"}
        return config | hooks, tensors_in(files.weights)

    @override
    def function(self, config: Mapping[str, Any], found: Mapping[str, Any], files: Files) -> Function:
        where = files.config or files.folder
        kind, read, written = _hooks(where, config)
        if getattr(found.get("w_dec"), "ndim", 2) > 2 and config.get("type") != "transcoder":
            raise _many_layers(files.weights, "w_dec writes to several layers")
        affine = config.get("affine_connection", SKIP in found)
        if not affine and SKIP in found:
            raise FormatError(
                f"{where} says affine_connection: {affine}, and {files.weights.name} has {SKIP}: one is wrong"
            )
        return Function(
            Tensors(AFFINE if affine else TENSORS, names={"W_enc": "w_enc", "W_dec": "w_dec", "W_skip": SKIP}),
            metadata={
                "model_name": model_name(str(config["model_name"])),
                "hf_hook_name": read,
                "hf_hook_name_out": written,
                "l0": config.get("l0"),
            },
            autoencoder=read if kind == "sae" else None,
        )


def _hooks(where: Where, config: Mapping[str, Any]) -> tuple[str, str, str]:
    """Return "transcoder" or "sae", the tensor that it reads, and the tensor that it writes."""
    read, written = config["hf_hook_point_in"], config.get("hf_hook_point_out")
    kind = config.get("type", "transcoder" if written not in (None, read) else "sae")
    if kind == "clt" or "cross" in str(kind):
        raise _many_layers(where, f"type: {kind}")
    if kind not in ("transcoder", "sae"):
        raise FormatError(f"{where} says type: {kind!r}, which is not known here; transcoder and sae are")
    if not isinstance(read, str) or not isinstance(written, str | None):
        raise FormatError(f"{where}: hf_hook_point_in and hf_hook_point_out have to be names of modules")
    if kind == "transcoder" and written in (None, read):
        raise FormatError(f"{where} says type: transcoder, and lacks an hf_hook_point_out other than {read}")
    if kind == "sae" and written not in (None, read):
        raise FormatError(f"{where} says type: sae, and reads {read} but writes {written}: which of the two is it?")
    return kind, read, written or read


def model_name(said: str) -> str:
    """Return a model's name on the hub.

    "gemma-v3-1b-pt" is google/gemma-3-1b-pt there, and the pretrained 270m has no suffix.

    Args:
        said: the name in config.json.

    Returns:
        The name on the hub, or the same for other models.
    """
    name = said.replace("gemma-v3", "gemma-3")
    if re.fullmatch(r"(google/)?gemma-3-270m-pt", name):
        name = name.removesuffix("-pt")
    return name if "/" in name or not name.startswith("gemma-3") else f"google/{name}"


def _many_layers(where: Where, why: str) -> FormatError:
    return FormatError(
        f"{where} is a crosscoder or a cross-layer transcoder ({why}): it reads or writes many layers at once, and "
        "there is no one layer whose Jacobian it has"
    )
