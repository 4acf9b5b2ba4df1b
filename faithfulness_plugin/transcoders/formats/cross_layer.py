"""Cross-layer transcoders (circuit-tracer's, Gemma Scope 2's): recognised, and refused for what they are."""

from pathlib import Path

from sae_lens.saes.transcoder import Transcoder

from faithfulness_plugin.transcoders.formats.files import peek_settings
from faithfulness_plugin.transcoders.formats.format import Format, Likeness, Request
from faithfulness_plugin.transcoders.formats.rule import FormatError

TITLE = "a cross-layer transcoder"
KIND = "cross_layer_transcoder"
CONFIG = "config.yaml"
WEIGHTS = ("W_enc_*.safetensors", "W_dec_*.safetensors")


def likeness(path: Path) -> Likeness:
    """By its files, one an encoder and one a decoder for each layer, and by `model_kind` in config.yaml."""
    folder = path if path.is_dir() else path.parent
    if path != folder and path.name != CONFIG and not any(path.match(pattern) for pattern in WEIGHTS):
        return Likeness.NONE
    said = peek_settings(folder / CONFIG).get("model_kind") == KIND
    return Likeness.CERTAIN if said or any(any(folder.glob(pattern)) for pattern in WEIGHTS) else Likeness.NONE


def read(path: Path, request: Request) -> Transcoder:
    """Raises FormatError: a function of many layers has no Jacobian of one."""
    raise FormatError(
        f"{path} is {TITLE}: each of its features writes to all later layers, so that it replaces no single layer and "
        "has no Jacobian of one; pass a transcoder of single layers (circuit-tracer's model_kind transcoder_set)"
    )


FORMAT = Format(
    title=TITLE, writes="W_enc_N.safetensors and W_dec_N.safetensors", likeness=likeness, read=read, folders=WEIGHTS
)
