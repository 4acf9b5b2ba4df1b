"""EleutherAI's sparsify (1.x): a folder a hookpoint, with cfg.json and sae.safetensors."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from typing_extensions import override

from faithfulness_plugin.transcoders.formats.format import Files, Format, Function
from faithfulness_plugin.transcoders.formats.schema import YES_OR_NO, Settings, Tensors

NAMES = {"W_enc": "encoder.weight", "b_enc": "encoder.bias"}
TENSORS = {"encoder.weight": "d_sae d_in", "encoder.bias": "d_sae", "W_dec": "d_sae d_out", "b_dec": "d_out"}
SKIP = {"W_skip": "d_out d_in"}


class Sparsify(Format):
    """t(x) = W_dec TopK(ReLU(W_enc x + b_enc)) + b_dec (+ W_skip x); an autoencoder's encoder subtracts b_dec first."""

    title = "a sparsify folder"
    source = "sparsify"
    writes = "cfg.json and sae.safetensors"
    configs = ("cfg.json",)
    weights = ("sae.safetensors",)
    settings = Settings(
        needs="k d_in",
        sizes={"d_in": "d_in", "d_sae": "num_latents"},
        zero_is_unstated="num_latents",
        only={
            "transcode": YES_OR_NO,
            "skip_connection": YES_OR_NO,
            "activation": ("topk",),  # "groupmax" keeps one feature of each group, which no SAELens class does
            "signed": (False,),  # without the ReLU: features below 0 stay
            "embed_skip": (False,),  # adds a map of the embedding to the output
            "gram_lookup": (False,),  # subtracts a table by n-grams from the target
        },
        # multi_topk adds a loss; the decoder's rows are normalised in training, and stored so
        harmless="expansion_factor normalize_decoder multi_topk lookup_max_order gram_table_hash",
    )
    own_tensors = frozenset(TENSORS)

    @override
    def function(self, config: Mapping[str, Any], found: Mapping[str, Any], files: Files) -> Function:
        hookpoint, skip = hookpoint_of(files.folder), config.get("skip_connection")
        transcodes = config.get("transcode", False)
        return Function(
            # older ones do not say whether there is a skip connection
            Tensors({**TENSORS, **(SKIP if skip else {})}, SKIP if skip is None else {}, names=NAMES),
            centre=None if transcodes else "b_dec",
            arguments={"k": config["k"]},
            metadata={"hookpoint": hookpoint},
            autoencoder=None if transcodes else f"{hookpoint} (transcode: false)",
            transcoder="transcode: true",
        )


def hookpoint_of(folder: Path) -> str:
    """Return what the folder is named after; where several seeds are trained, each has one of its own in it.

    Args:
        folder: the transcoder's.

    Returns:
        The name of a module of the model.
    """
    folder = folder.resolve()
    return folder.parent.name if re.fullmatch(r"seed\d+", folder.name) else folder.name
