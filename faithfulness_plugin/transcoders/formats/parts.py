"""Build a SAELens inference transcoder from the parts that every format has."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from sae_lens.registry import SAE_CLASS_REGISTRY
from sae_lens.saes.sae import SAEMetadata
from sae_lens.saes.transcoder import Transcoder
from torch import Tensor

from faithfulness_plugin.transcoders.formats.errors import FormatError, Where
from faithfulness_plugin.transcoders.topk_inference import TopKTranscoderConfig


def transcoder_of(
    *,
    W_enc: Float[Tensor, "d_in d_sae"],
    b_enc: Float[Tensor, " d_sae"],
    W_dec: Float[Tensor, "d_sae d_out"],
    b_dec: Float[Tensor, " d_out"],
    W_skip: Float[Tensor, "d_out d_in"] | None = None,
    threshold: Float[Tensor, " d_sae"] | None = None,
    post_enc: Float[Tensor, " d_sae"] | None = None,
    k: int | None = None,
    rank_by_norm: bool = False,
    keep_negative: bool = False,
    metadata: Mapping[str, Any],
    where: Where,
) -> Transcoder:
    """Build a ReLU transcoder, JumpReLU with thresholds, or TopK with a k; with a skip connection where there is one.

    Args:
        W_enc: what features read.
        b_enc: the encoder's bias.
        W_dec: what features write.
        b_dec: the decoder's bias.
        W_skip: the skip connection; None for none.
        threshold: JumpReLU's thresholds; None for ReLU or TopK.
        post_enc: TopK adds it to the features that stay.
        k: how many features TopK keeps in each row; None for ReLU or JumpReLU.
        rank_by_norm: TopK keeps the largest a_i ||W_dec^i|| rather than the largest a_i.
        keep_negative: TopK keeps its k features also where they are below 0.
        metadata: by SAELens's names. Where hook_name, or hf_hook_name, is what the transcoder writes, too, it has to
            say `autoencoder=True`.
        where: the file that messages name.

    Returns:
        An instance of SAELens's class, or `TopKTranscoder`, in the dtype and on the device of W_enc.

    Raises:
        FormatError: k does not fit the weights; a threshold is below 0.
    """
    weights = {"W_enc": W_enc, "b_enc": b_enc, "W_dec": W_dec, "b_dec": b_dec, "W_skip": W_skip, "threshold": threshold}
    weights["post_enc"] = post_enc
    weights = {name: weight for name, weight in weights.items() if weight is not None}
    (d_in, d_sae), d_out = W_enc.shape, W_dec.shape[1]
    if k is not None and (isinstance(k, bool) or not isinstance(k, int) or not 0 < k <= d_sae):
        raise FormatError(f"{where}: k is {k!r}, and of {d_sae} features 1 to {d_sae} can stay")
    if k is not None and threshold is not None:
        raise FormatError(f"{where} has k and thresholds: no class here keeps k features of those above a threshold")
    if threshold is not None and (n_below := int((threshold < 0).sum())) > 0:
        raise FormatError(
            f"{where} has {n_below} thresholds below 0, under which features are negative: no SAELens class has those"
        )
    name = "jumprelu_" * (threshold is not None) + "skip_" * (W_skip is not None) + "transcoder"
    own: dict[str, Any] = {}
    if k is not None:
        name = TopKTranscoderConfig.architecture()
        own = {"k": k, "rescale_acts_by_decoder_norm": rank_by_norm, "keep_negative": keep_negative}
        own |= {"skip": W_skip is not None, "shift": post_enc is not None}
    registered: tuple[Any, Any] = SAE_CLASS_REGISTRY[name]
    transcoder_class, config_class = registered
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
    transcoder = transcoder_class(config)
    transcoder.load_state_dict({name: weight.to(W_enc.dtype).contiguous() for name, weight in weights.items()})
    return transcoder


def centred(
    b_enc: Float[Tensor, " d_sae"], W_enc: Float[Tensor, "d_in d_sae"], b: Float[Tensor, " d_in"]
) -> Float[Tensor, " d_sae"]:
    """Compute the bias of an encoder that subtracts b from its input: W_enc^T (x - b) + b_enc = W_enc^T x + this.

    Args:
        b_enc: the encoder's bias.
        W_enc: what features read.
        b: what is subtracted from the input.

    Returns:
        b_enc - W_enc^T b, computed in float64, in the dtype of b_enc.
    """
    precise = torch.float64
    return (b_enc.to(precise) - b.to(precise) @ W_enc.to(precise)).to(b_enc.dtype)


def gated(
    W_enc: Float[Tensor, "d_in d_sae"],
    r_mag: Float[Tensor, " d_sae"],
    b_gate: Float[Tensor, " d_sae"],
    b_mag: Float[Tensor, " d_sae"],
) -> dict[str, Tensor]:
    """Convert a gated encoder to the JumpReLU encoder that computes the same.

    f = 1[u + b_gate > 0] ReLU(e^r u + b_mag) with u = W_enc^T x is the JumpReLU of z = e^r u + b_mag whose threshold is
    b_mag - e^r b_gate, where that is above 0.

    Args:
        W_enc: what features read.
        r_mag: r, the logarithm of the ratio of magnitude's and gate's weights.
        b_gate: the gate's bias.
        b_mag: the magnitude's bias.

    Returns:
        W_enc, b_enc and threshold of the JumpReLU.

    Source: S. Rajamanoharan et al., "Improving Dictionary Learning with Gated Sparse Autoencoders", 2024.
    """
    slope = r_mag.exp()
    return {"W_enc": W_enc * slope, "b_enc": b_mag, "threshold": (b_mag - slope * b_gate).clamp_min(0)}
