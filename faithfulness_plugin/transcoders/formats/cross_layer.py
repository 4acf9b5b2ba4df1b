"""Cross-layer transcoders (circuit-tracer's, Gemma Scope 2's): recognised, and refused for what they are."""

from pathlib import Path

from sae_lens.saes.transcoder import Transcoder
from typing_extensions import override

from faithfulness_plugin.transcoders.formats.errors import FormatError
from faithfulness_plugin.transcoders.formats.files import peek_settings
from faithfulness_plugin.transcoders.formats.format import Format, Likeness
from faithfulness_plugin.transcoders.formats.request import Request


class CrossLayer(Format):
    """Files of which one has an encoder and one a decoder for each layer, or `model_kind` in config.yaml."""

    title = "a cross-layer transcoder"
    configs = ("config.yaml",)
    weights = ("W_enc_*.safetensors", "W_dec_*.safetensors")
    writes = "W_enc_N.safetensors and W_dec_N.safetensors"

    @override
    def likeness(self, path: Path) -> Likeness:
        folder = path if path.is_dir() else path.parent
        if path != folder and not any(path.match(pattern) for pattern in (*self.configs, *self.weights)):
            return Likeness.NONE
        named = peek_settings(folder / "config.yaml").get("model_kind") == "cross_layer_transcoder"
        named = named or any(any(folder.glob(pattern)) for pattern in self.weights)
        return Likeness.CERTAIN if named else Likeness.NONE

    @override
    def read(self, path: Path, request: Request) -> Transcoder:
        """Raise FormatError: a function of many layers has no Jacobian of one."""
        raise FormatError(
            f"{path} is {self.title}: each of its features writes to all later layers, so that it replaces no single "
            "layer and has no Jacobian of one; load_cross_layer_transcoder reads circuit-tracer's, and "
            "load_transcoder a transcoder of single layers (model_kind transcoder_set)"
        )
