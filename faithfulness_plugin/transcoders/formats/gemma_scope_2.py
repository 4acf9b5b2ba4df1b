"""Gemma Scope 2 (google/gemma-scope-2-*): config.json and params.safetensors, JumpReLU, with or without an affine
connection."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sae_lens.saes.transcoder import Transcoder

from faithfulness_plugin.transcoders.formats.files import peek_names, peek_settings, settings_in, tensors_in
from faithfulness_plugin.transcoders.formats.format import Format, Likeness, Request
from faithfulness_plugin.transcoders.formats.parts import require_autoencoder_asked, transcoder_of
from faithfulness_plugin.transcoders.formats.rule import FormatError, Settings, Tensors

TITLE = "a Gemma Scope 2 folder"
CONFIG = "config.json"
WEIGHTS = "params.safetensors"
SKIP = "affine_skip_connection"
SETTINGS = Settings(
    needs=("architecture", "model_name", "hf_hook_point_in"),
    reads=("type", "hf_hook_point_out", "affine_connection", "l0", "width"),
    only={"architecture": ("jump_relu",)},
)
TENSORS = Tensors(
    needs={
        "w_enc": "d_in d_sae",
        "w_dec": "d_sae d_out",
        "b_enc": "d_sae",
        "b_dec": "d_out",
        "threshold": "d_sae",
    },
    reads={SKIP: "d_in d_out"},
)
PUBLISHED = re.compile(r"gemma-scope-2-(\d+[mb])-(pt|it)\b.*/transcoder(?:_all)?/layer_(\d+)_[^/]*$")
"""Folders that need no config.json, because their names say the same; some were published so."""


def likeness(path: Path) -> Likeness:
    """By the settings that no other format has, and by the names of its tensors."""
    folder = path if path.is_dir() else path.parent
    if path.is_file() and path.suffix != ".safetensors" and path.name != CONFIG:
        return Likeness.NONE
    file = path if path.suffix == ".safetensors" else folder / WEIGHTS
    if file.exists() and (file.name == WEIGHTS or peek_names(file) >= {*TENSORS.needs}):
        return Likeness.CERTAIN
    return Likeness.SETTINGS if "hf_hook_point_in" in peek_settings(folder / CONFIG) else Likeness.NONE


def read(path: Path, request: Request) -> Transcoder:
    """t(x) = W_dec JumpReLU(W_enc x + b_enc) + b_dec (+ A^T x, with the affine connection A [d_in, d_out])."""
    folder = path if path.is_dir() else path.parent
    file = path if path.suffix == ".safetensors" else folder / WEIGHTS
    where = folder / CONFIG
    config = _settings(folder)
    metadata = _metadata(where, config)
    if metadata.get("autoencoder"):
        require_autoencoder_asked(where, metadata["hf_hook_name"], request)
    found = tensors_in(file)
    if "w_dec" in found and getattr(found["w_dec"], "ndim", 2) == 3:
        raise _many_layers(file, "w_dec writes to several layers")
    sizes = {"d_sae": (config["width"], f"width in {CONFIG}")} if "width" in config else {}
    weights = TENSORS.check(TITLE, file, found, sizes=sizes, device=request.device, dtype=request.dtype)
    if (affine := config.get("affine_connection", SKIP in weights)) != (SKIP in weights):
        raise FormatError(
            f"{where} says affine_connection: {affine}, and {file.name} has {'a' if SKIP in weights else 'no'} tensor "
            f"{SKIP}: fetch both again"
        )
    return transcoder_of(
        W_enc=weights["w_enc"],
        b_enc=weights["b_enc"],
        W_dec=weights["w_dec"],
        b_dec=weights["b_dec"],
        threshold=weights["threshold"],
        W_skip=weights[SKIP].mT if affine else None,
        metadata=metadata,
        where=file,
    )


def _settings(folder: Path) -> Mapping[str, Any]:
    published = PUBLISHED.search(folder.absolute().as_posix())
    if published is None or (folder / CONFIG).exists():
        return SETTINGS.check(TITLE, folder / CONFIG, settings_in(TITLE, folder / CONFIG))
    size, tuned, layer = published.groups()
    norm = f"model.layers.{layer}.%s_feedforward_layernorm.output"
    return {
        "model_name": f"gemma-v3-{size}-{tuned}",
        "hf_hook_point_in": norm % "pre",
        "hf_hook_point_out": norm % "post",
        "type": "transcoder",
    }


def _metadata(where: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    read, written = config["hf_hook_point_in"], config.get("hf_hook_point_out")
    kind = config.get("type", "transcoder" if written not in (None, read) else "sae")
    if kind in ("clt", "crosscoder") or "cross" in str(kind):
        raise _many_layers(where, f"type: {kind}")
    if kind not in ("transcoder", "sae"):
        raise FormatError(f"{where} says type: {kind!r}, which is not known here; transcoder and sae are")
    if not isinstance(read, str) or not isinstance(written, str | None):
        raise FormatError(f"{where}: hf_hook_point_in and hf_hook_point_out have to be names of modules")
    if kind == "transcoder" and written in (None, read):
        raise FormatError(f"{where} says type: transcoder, and lacks an hf_hook_point_out other than {read}")
    if kind == "sae":
        if written not in (None, read):
            raise FormatError(f"{where} says type: sae, and reads {read} but writes {written}: which of the two is it?")
        written = read
    found = {
        "source": "gemma-scope-2",
        "model_name": model_name(str(config["model_name"])),
        "hf_hook_name": read,
        "hf_hook_name_out": written,
        "l0": config.get("l0"),
    }
    return found | ({"autoencoder": True} if kind == "sae" else {})


def model_name(said: str) -> str:
    """Its name on the hub: "gemma-v3-1b-pt" is google/gemma-3-1b-pt, and the pretrained 270m has no suffix there."""
    name = said.replace("gemma-v3", "gemma-3")
    if re.fullmatch(r"(google/)?gemma-3-270m-pt", name):
        name = name.removesuffix("-pt")
    return name if "/" in name or not name.startswith("gemma-3") else f"google/{name}"


def _many_layers(where: Path, why: str) -> FormatError:
    return FormatError(
        f"{where} is a crosscoder or a cross-layer transcoder ({why}): it reads or writes many layers at once, and "
        "there is no one layer whose Jacobian it has"
    )


FORMAT = Format(title=TITLE, writes=f"{CONFIG} and {WEIGHTS}", likeness=likeness, read=read, folders=(WEIGHTS,))
