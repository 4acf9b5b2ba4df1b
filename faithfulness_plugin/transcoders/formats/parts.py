"""From the parts that every format has to a SAELens inference transcoder."""

from collections.abc import Mapping
from pathlib import Path
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

from faithfulness_plugin.transcoders.topk_inference import TopKTranscoder, TopKTranscoderConfig

STOCK: dict[tuple[bool, bool], tuple[Any, Any]] = {
    (False, False): (TranscoderConfig, Transcoder),
    (False, True): (SkipTranscoderConfig, SkipTranscoder),
    (True, False): (JumpReLUTranscoderConfig, JumpReLUTranscoder),
    (True, True): (JumpReLUSkipTranscoderConfig, JumpReLUSkipTranscoder),
}
"""By whether there are thresholds, and a skip connection."""


class FormatError(ValueError):
    """What looked like a library's transcoder cannot be read as one."""


def require_keys(looks_like: str, where: Path, found: Mapping[str, Any], *names: str) -> None:
    """Raises FormatError where some are missing, with what the file looked like."""
    if not isinstance(found, Mapping):
        raise FormatError(f"{where} looks like {looks_like}'s, and holds a {type(found).__name__}, no values by name")
    if lacks := [name for name in names if name not in found]:
        raise FormatError(
            f"{where} looks like {looks_like}, and lacks {', '.join(lacks)} (it has {', '.join(sorted(found)[:12])}): "
            "save it again with that library, or check the path"
        )


def transcoder_of(
    *,
    W_enc: Float[Tensor, "d_in d_sae"],
    b_enc: Float[Tensor, " d_sae"],
    W_dec: Float[Tensor, "d_sae d_out"],
    b_dec: Float[Tensor, " d_out"],
    W_skip: Float[Tensor, "d_out d_in"] | None = None,
    threshold: Float[Tensor, " d_sae"] | None = None,
    k: int | None = None,
    metadata: Mapping[str, Any],
) -> Transcoder:
    """ReLU, or JumpReLU with thresholds, or TopK with a k; a skip connection where there is one.

    Raises FormatError where shapes do not fit each other, or k does not fit them.
    """
    for name, weight in (("W_enc", W_enc), ("W_dec", W_dec)):
        if weight.ndim != 2:
            raise FormatError(f"{name} has shape {list(weight.shape)}, and is no matrix")
    (d_in, d_sae), d_out = W_enc.shape, W_dec.shape[1]
    weights = {"W_enc": W_enc, "b_enc": b_enc, "W_dec": W_dec, "b_dec": b_dec, "W_skip": W_skip, "threshold": threshold}
    shapes = {
        "W_enc": (d_in, d_sae),
        "b_enc": (d_sae,),
        "W_dec": (d_sae, d_out),
        "b_dec": (d_out,),
        "W_skip": (d_out, d_in),
        "threshold": (d_sae,),
    }
    weights = {name: weight for name, weight in weights.items() if weight is not None}
    for name, weight in weights.items():
        if weight.shape != shapes[name]:
            raise FormatError(f"{name} has shape {list(weight.shape)}, and the other weights say {list(shapes[name])}")
    if k is not None and not (isinstance(k, int) and 0 < k <= d_sae):
        raise FormatError(f"k is {k!r}, and of {d_sae} features 1 to {d_sae} can stay")
    config_class, transcoder_class = STOCK[threshold is not None, W_skip is not None]
    own: dict[str, Any] = {}
    if k is not None:
        config_class, transcoder_class = TopKTranscoderConfig, TopKTranscoder
        own = {"k": k, "rescale_acts_by_decoder_norm": False, "skip": W_skip is not None}
    config = config_class(
        d_in=d_in,
        d_out=d_out,
        d_sae=d_sae,
        dtype=str(W_enc.dtype).removeprefix("torch."),
        device=str(W_enc.device),
        apply_b_dec_to_input=False,
        metadata=SAEMetadata(**metadata),
        **own,
    )
    transcoder = transcoder_class(config)
    transcoder.load_state_dict({name: weight.to(W_enc.dtype).contiguous() for name, weight in weights.items()})
    return transcoder


def centred(
    b_enc: Float[Tensor, " d_sae"], W_enc: Float[Tensor, "d_in d_sae"], b: Float[Tensor, " d_in"]
) -> Float[Tensor, " d_sae"]:
    """The bias of an encoder that subtracts b from its input first: W_enc^T (x - b) + b_enc = W_enc^T x + this.

    Raises FormatError where b is not as wide as the input."""
    if W_enc.ndim != 2 or b.shape != W_enc.shape[:1]:
        raise FormatError(f"a bias of shape {list(b.shape)} is subtracted from inputs of W_enc {list(W_enc.shape)}")
    precise = torch.float64
    return (b_enc.to(precise) - b.to(precise) @ W_enc.to(precise)).to(b_enc.dtype)
