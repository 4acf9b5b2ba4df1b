"""What a transcoder's numbers are read beside."""

from copy import deepcopy
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from faithfulness_plugin.seeds import derived_seed

if TYPE_CHECKING:  # at run time a type is no reason to load SAELens
    from sae_lens import SAE


@torch.no_grad()
def shuffled_decoder(transcoder: "SAE[Any]", seed: int = 0) -> Any:
    """Copy a transcoder, and let features write in the directions of others, each as strongly as before.

    All gates are kept, also those of TopK that ranks by what is written; no mechanism is.

    Args:
        transcoder: is not changed.
        seed: decides the order of the directions.

    Returns:
        The copy.
    """
    copied = deepcopy(transcoder)
    generator = torch.Generator().manual_seed(derived_seed(seed, "shuffled decoder"))
    order = torch.randperm(len(copied.W_dec), generator=generator).to(copied.W_dec.device)
    norms = transcoder.W_dec.norm(dim=-1, keepdim=True)
    copied.W_dec.copy_(nn.functional.normalize(transcoder.W_dec[order], dim=-1) * norms)
    return copied


@torch.no_grad()
def mean_ablation(transcoder: "SAE[Any]", outputs: Float[Tensor, "rows d_out"]) -> Any:
    """Copy a transcoder, and let it write the mean of these outputs whatever it reads.

    Args:
        transcoder: is not changed.
        outputs: the layer's.

    Returns:
        The copy.
    """
    copied = deepcopy(transcoder)
    for name in ("W_dec", "W_skip"):
        if getattr(copied, name, None) is not None:
            getattr(copied, name).zero_()
    copied.b_dec.copy_(outputs.mean(0))
    return copied
