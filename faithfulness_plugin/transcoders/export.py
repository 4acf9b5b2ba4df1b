"""Finished transcoders in the architectures that SAELens has."""

from typing import Any

import torch
from jaxtyping import Float
from sae_lens.saes.transcoder import JumpReLUTranscoder
from torch import Tensor

from faithfulness_plugin.transcoders.batch_topk import BatchTopKTrainingTranscoder
from faithfulness_plugin.transcoders.formats.parts import transcoder_of
from faithfulness_plugin.transcoders.formats.schema import require_finite
from faithfulness_plugin.transcoders.topk import TopKTrainingTranscoder
from faithfulness_plugin.transcoders.topk_inference import TopKTranscoder


@torch.no_grad()
def topk_to_jumprelu(
    transcoder: TopKTrainingTranscoder | TopKTranscoder, x: Float[Tensor, "rows d_in"]
) -> JumpReLUTranscoder:
    """Convert a TopK transcoder to SAELens's stock JumpReLU transcoder, which loads without this package.

    It is an approximation: TopK keeps k features of every row, JumpReLU those above a threshold. The threshold is
    chosen so that on the given rows as many features are active in all as with TopK, except for ties in what TopK ranks
    by (a_i or a_i ||W_dec^i||). Rows then have fewer or more than k, and outputs differ. Measure the two on rows of
    your own, with `metrics.reconstruction`.

    Args:
        transcoder: a TopK transcoder, in training or finished.
        x: inputs of the kind that it will see; some thousands.

    Returns:
        A JumpReLUTranscoder, or a JumpReLUSkipTranscoder where there is a skip connection; `save_model` writes it.

    Raises:
        ValueError: no feature is active on these rows; a weight that is not finite; a transcoder with post_enc; a
            BatchTopK transcoder, which is exported as it is.
    """
    for name, weight in transcoder.named_parameters():
        require_finite("the transcoder", name, weight)
    if isinstance(transcoder, BatchTopKTrainingTranscoder):
        raise ValueError(
            "a BatchTopK transcoder has a threshold already: save_inference_model exports it as a JumpReLU"
        )
    if isinstance(transcoder, TopKTranscoder) and transcoder.cfg.shift:
        raise ValueError(
            "post_enc is added to the features that stay, which no threshold of a JumpReLU does: there is none"
        )
    score = transcoder.score(transcoder.process_sae_in(x) @ transcoder.W_enc + transcoder.b_enc)
    count = int((transcoder.activation_fn(score) > 0).sum())
    if count == 0:
        raise ValueError(f"no feature is active on these {len(x)} rows: pass inputs of the kind that it was trained on")
    ranked = score.flatten().sort(descending=True).values[count - 1 : count + 1]
    threshold = ranked.mean().clamp_min(0) if len(ranked) == 2 else torch.zeros_like(ranked[0])

    weights: dict[str, Any] = dict(transcoder.named_parameters())
    thresholds = threshold / transcoder.score(torch.ones_like(transcoder.b_enc))
    metadata = transcoder.cfg.metadata.to_dict()
    converted = transcoder_of(**weights, threshold=thresholds, metadata=metadata, where="the transcoder")
    assert isinstance(converted, JumpReLUTranscoder)
    return converted
