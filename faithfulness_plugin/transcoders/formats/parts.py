"""From the parts that every format has to a SAELens inference transcoder."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from sae_lens.saes.sae import SAEMetadata
from sae_lens.saes.transcoder import (
    JumpReLUSkipTranscoder,
    JumpReLUSkipTranscoderConfig,
    JumpReLUTranscoder,
    JumpReLUTranscoderConfig,
    SkipTranscoder,
    SkipTranscoderConfig,
    Transcoder,
    TranscoderConfig,
)
from torch import Tensor

from faithfulness_plugin.transcoders.formats.format import Request
from faithfulness_plugin.transcoders.formats.rule import (
    FormatError,
    Where,
    require_finite,
    require_keys,
    require_shapes,
)
from faithfulness_plugin.transcoders.topk_inference import TopKTranscoder, TopKTranscoderConfig

__all__ = [
    "FormatError",
    "centred",
    "require_autoencoder_asked",
    "require_keys",
    "require_transcoder_asked",
    "transcoder_of",
]

STOCK: dict[tuple[bool, bool], tuple[Any, Any]] = {
    (False, False): (TranscoderConfig, Transcoder),
    (False, True): (SkipTranscoderConfig, SkipTranscoder),
    (True, False): (JumpReLUTranscoderConfig, JumpReLUTranscoder),
    (True, True): (JumpReLUSkipTranscoderConfig, JumpReLUSkipTranscoder),
}
"""By whether there are thresholds, and a skip connection."""
SHAPES = {
    "W_enc": "d_in d_sae",
    "b_enc": "d_sae",
    "W_dec": "d_sae d_out",
    "b_dec": "d_out",
    "W_skip": "d_out d_in",
    "threshold": "d_sae",
}


def transcoder_of(
    *,
    W_enc: Float[Tensor, "d_in d_sae"],
    b_enc: Float[Tensor, " d_sae"],
    W_dec: Float[Tensor, "d_sae d_out"],
    b_dec: Float[Tensor, " d_out"],
    W_skip: Float[Tensor, "d_out d_in"] | None = None,
    threshold: Float[Tensor, " d_sae"] | None = None,
    k: int | None = None,
    rank_by_norm: bool = False,
    keep_negative: bool = False,
    metadata: Mapping[str, Any],
    where: Where,
) -> Transcoder:
    """ReLU, or JumpReLU with thresholds, or TopK with a k; a skip connection where there is one.

    The weights have been through `rule.Tensors.check`, which gives them the device and dtype that the caller asked for.

    Args:
        rank_by_norm: TopK keeps the largest a_i ||W_dec^i|| rather than the largest a_i.
        keep_negative: TopK keeps its k features also where they are below 0.
        metadata: of SAELens's names. Where hook_name, or hf_hook_name, is what the transcoder writes, too, it has to
            say `autoencoder=True`.
        where: the file that messages speak of.

    Raises:
        FormatError: shapes do not fit each other, k does not fit them, a threshold is below 0.
    """
    weights = {"W_enc": W_enc, "b_enc": b_enc, "W_dec": W_dec, "b_dec": b_dec, "W_skip": W_skip, "threshold": threshold}
    weights = {name: weight for name, weight in weights.items() if weight is not None}
    require_shapes(where, weights, SHAPES, {})
    (d_in, d_sae), d_out = W_enc.shape, W_dec.shape[1]
    if k is not None and (isinstance(k, bool) or not isinstance(k, int) or not 0 < k <= d_sae):
        raise FormatError(f"{where}: k is {k!r}, and of {d_sae} features 1 to {d_sae} can stay")
    if k is not None and threshold is not None:
        raise FormatError(f"{where} has k and thresholds: no class here keeps k features of those above a threshold")
    if threshold is not None and (n_below := int((threshold < 0).sum())) > 0:
        raise FormatError(
            f"{where} has {n_below} thresholds below 0, under which features are negative: no SAELens class has those"
        )
    config_class, transcoder_class = STOCK[threshold is not None, W_skip is not None]
    own: dict[str, Any] = {}
    if k is not None:
        config_class, transcoder_class = TopKTranscoderConfig, TopKTranscoder
        own = {"k": k, "rescale_acts_by_decoder_norm": rank_by_norm, "keep_negative": keep_negative}
        own["skip"] = W_skip is not None
    config = config_class(
        d_in=d_in,
        d_out=d_out,
        d_sae=d_sae,
        dtype=str(W_enc.dtype).removeprefix("torch."),
        device=str(W_enc.device),
        apply_b_dec_to_input=False,
        metadata=SAEMetadata(**{name: value for name, value in metadata.items() if value is not None}),
        **own,
    )
    for name, weight in weights.items():
        require_finite(where, name, weight)  # what was folded may have become too large
    transcoder = transcoder_class(config)
    transcoder.load_state_dict({name: weight.to(W_enc.dtype).contiguous() for name, weight in weights.items()})
    return transcoder


def centred(
    b_enc: Float[Tensor, " d_sae"], W_enc: Float[Tensor, "d_in d_sae"], b: Float[Tensor, " d_in"]
) -> Float[Tensor, " d_sae"]:
    """The bias of an encoder that subtracts b from its input first: W_enc^T (x - b) + b_enc = W_enc^T x + this."""
    precise = torch.float64
    return (b_enc.to(precise) - b.to(precise) @ W_enc.to(precise)).to(b_enc.dtype)


def require_transcoder_asked(where: Where, why: str, request: Request) -> None:
    """Raises FormatError where an autoencoder was asked for, and the file says that this is none."""
    if request.autoencoder:
        raise FormatError(
            f"{where} is a transcoder ({why}), and autoencoder=True was asked for (on the command line --autoencoder): "
            "leave that out"
        )


def require_autoencoder_asked(where: Where, reads: str | None, request: Request) -> None:
    """Raises FormatError where nobody asked for an autoencoder, which this is.

    Args:
        reads: the tensor that it reads and writes, where that is known.
    """
    if not request.autoencoder:
        tensor = f" of {reads}" if reads else ""
        raise FormatError(
            f"{where} is an autoencoder{tensor}: what it reads is what it writes, and it is no transcoder of a layer; "
            "pass autoencoder=True (on the command line --autoencoder) to measure it as the map from that tensor to "
            "itself"
        )
