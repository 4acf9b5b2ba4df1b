"""Which features act on one input, and what each of them reads and writes."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from faithfulness_plugin.display import short_repr
from faithfulness_plugin.inspection.hooked_reading import acts_at
from faithfulness_plugin.inspection.hooked_transcoder import hooked


@dataclass(frozen=True)
class ActiveFeature:
    """One feature at one input."""

    index: int
    activation: float
    """a_i(x), as `hook_sae_acts_post` carries it."""
    contribution: Float[Tensor, " d_out"]
    """a_i(x) W_dec^i: what it adds to the output."""
    reads: Float[Tensor, " d_in"]
    """W_enc^i, the direction that it listens to."""

    __repr__ = short_repr

    @property
    def norm(self) -> float:
        """||contribution||."""
        return self.contribution.norm().item()


@torch.no_grad()
def active_features(transcoder: nn.Module, x: Float[Tensor, " d_in"], most: int = 10) -> list[ActiveFeature]:
    """Find the features with a_i(x) > 0, ranked by the norm of what they add to the output, largest first.

    Activations are read through TransformerLens hooks, so that interventions on `hook_sae_acts_pre` and
    `hook_sae_acts_post` show.

    Args:
        transcoder: any SAELens SAE or transcoder with dense activations, or a module whose linear region is
            registered.
        x: one input.
        most: the largest number of features to return.

    Returns:
        One record a feature: its activation, what it adds, and what it reads.

    Raises:
        ValueError: x is not one row.
    """
    if x.ndim != 1:
        raise ValueError(f"x has shape {list(x.shape)}: pass one input, [d_in]")
    inspected = hooked(transcoder, x[None])
    acts = acts_at(inspected, x[None])[0]
    order = (acts * inspected.W_dec.norm(dim=-1)).argsort(descending=True)[:most]
    return [
        ActiveFeature(i, acts[i].item(), acts[i] * inspected.W_dec[i], inspected.W_enc[:, i].clone())
        for i in order.tolist()
        if acts[i] > 0
    ]
