"""What a transcoder's numbers are read beside."""

from copy import deepcopy
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from faithfulness_plugin.seeds import derived_seed


@torch.no_grad()
def shuffled_decoder(transcoder: Any, seed: int = 0) -> Any:
    """A copy whose features write in the directions of others, each as strongly as before: TopK that ranks by what is
    written keeps its choice, and so do all gates; no mechanism."""
    copied = deepcopy(transcoder)
    generator = torch.Generator().manual_seed(derived_seed(seed, "shuffled decoder"))
    order = torch.randperm(len(copied.W_dec), generator=generator).to(copied.W_dec.device)
    norms = transcoder.W_dec.norm(dim=-1, keepdim=True)
    copied.W_dec.copy_(nn.functional.normalize(transcoder.W_dec[order], dim=-1) * norms)
    return copied


@torch.no_grad()
def mean_ablation(transcoder: Any, outputs: Float[Tensor, "rows d_out"]) -> Any:
    """A copy that writes the mean of these outputs whatever it reads."""
    copied = deepcopy(transcoder)
    for name in ("W_dec", "W_skip"):
        if getattr(copied, name, None) is not None:
            getattr(copied, name).zero_()
    copied.b_dec.copy_(outputs.mean(0))
    return copied
