"""What the same change does behind a layer, in the model and in the model with a transcoder in the layer's place."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from faithfulness_plugin.metrics.result import MetricResult, cosines
from faithfulness_plugin.rounding import beyond_rounding

MOVES = 0.1
"""Prompts whose effect is at least this part of the rms effect count for cosines; all others together hold less than
1 % of the effects' energy, and the direction of next to nothing says nothing."""


@dataclass(frozen=True)
class Effect(MetricResult):
    """The effect of one change, at one place behind the layer, compared between two models."""

    error: float
    """E||E_t - E_f||^2 / E||E_f||^2, a ratio of means over prompts; E the change of the activations there, in the model
    (f) and in the spliced model (t). 0 is best, 1 says that nothing of the effect is there."""
    cosine: float
    """Mean of cos(E_t, E_f) over the prompts that the change moves: those with ||E_f|| of a tenth of its rms, over
    prompts where it is not 0, or more."""
    moved: int
    """How many prompts these are."""


@torch.no_grad()
def effect(
    clean: Float[Tensor, "batch *rest"],
    changed: Float[Tensor, "batch *rest"],
    clean_spliced: Float[Tensor, "batch *rest"],
    changed_spliced: Float[Tensor, "batch *rest"],
) -> Effect:
    """Compare what one change does behind the layer, in the model and in the model with the transcoder spliced in.

    error = E||E_t - E_f||^2 / E||E_f||^2, with E_f = changed - clean and E_t likewise in the spliced model. A prompt's
    effect is one vector, over all of its tokens; what rounding explains is no effect.

    Args:
        clean: activations of the model at one place behind the layer.
        changed: the same activations after the change.
        clean_spliced: activations of the spliced model there.
        changed_spliced: the same activations after the change.

    Returns:
        The relative error, and the mean cosine over the prompts that the change moves.

    Raises:
        ValueError: the change has no effect in the model on any prompt.

    Source: E. Ameisen et al., "Circuit Tracing", Transformer Circuits, 2025, on perturbation experiments.

    An effect of the right direction and half the size has cosine 1 and error 1/4:

        >>> import torch
        >>> step = torch.randn(8, 5, generator=torch.Generator().manual_seed(0))
        >>> found = effect(torch.zeros(8, 5), step, torch.zeros(8, 5), step / 2)
        >>> round(found.error, 6), round(found.cosine, 6)
        (0.25, 1.0)
    """
    return compare_effects(beyond_rounding(clean, changed), beyond_rounding(clean_spliced, changed_spliced))


@torch.no_grad()
def compare_effects(of_layer: Float[Tensor, "batch *rest"], of_transcoder: Float[Tensor, "batch *rest"]) -> Effect:
    """Compare two changes of the activations at one place: what `effect` does once it has them.

    Args:
        of_layer: E_f, the change in the model, 0 where rounding explains it.
        of_transcoder: E_t, that in the spliced model.

    Returns:
        As `effect`.

    Raises:
        ValueError: E_f is 0 on all prompts.
    """
    # [prompts, all tokens and coordinates]
    of_layer, of_transcoder = of_layer.flatten(1).double(), of_transcoder.flatten(1).double()
    energy = of_layer.square().sum(1)
    if not energy.any():
        raise ValueError("the change has no effect in the model, so that there is nothing to compare it with")
    moved = energy >= MOVES**2 * energy[energy > 0].mean()
    return Effect(
        error=((of_transcoder - of_layer).square().sum() / energy.sum()).item(),
        cosine=cosines(of_transcoder, of_layer)[moved].mean().item(),
        moved=int(moved.sum()),
    )
