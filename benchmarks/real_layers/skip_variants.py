"""Skip connections that are trained otherwise: as a product of low rank, or from the Jacobian term alone."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized, register_parametrization, remove_parametrizations
from typing_extensions import override

from faithfulness_plugin.benchmarks.real_layers.variation import Variation
from faithfulness_plugin.jacobian.linear_region import LinearRegion, add_skip
from faithfulness_plugin.seeds import derived_seed
from faithfulness_plugin.transcoders.base import TrainingTranscoder


class LowRank(nn.Module):
    """W_skip = B A with A [rank, d_in] and B [d_out, rank].

    Args:
        rank: of the product.
        seed: decides the first A.
    """

    def __init__(self, rank: int, seed: int) -> None:
        super().__init__()
        self.rank, self.seed = rank, seed

    def forward(self, B: Float[Tensor, "d_out rank"], A: Float[Tensor, "rank d_in"]) -> Float[Tensor, "d_out d_in"]:
        """Compute the product.

        Args:
            B: the outer factor.
            A: the inner factor.

        Returns:
            B A.
        """
        return B @ A

    def right_inverse(self, W_skip: Float[Tensor, "d_out d_in"]) -> tuple[Tensor, Tensor]:
        """Draw factors whose product is 0, and that have a gradient: B = 0, and A at the scale of encoders.

        Args:
            W_skip: the skip connection, 0 before training.

        Returns:
            B and A.
        """
        d_out, d_in = W_skip.shape
        generator = torch.Generator().manual_seed(derived_seed(self.seed, "low-rank skip"))
        A = torch.empty(self.rank, d_in).uniform_(-(d_in**-0.5), d_in**-0.5, generator=generator)
        return W_skip.new_zeros(d_out, self.rank), A.to(W_skip)


class SkipByTerm(TrainingTranscoder[Any]):
    """A transcoder whose skip connection gets no gradient from the outputs. Stands in front of an architecture's."""

    @override
    def output_at(self, x: Tensor, region: LinearRegion) -> Tensor:
        W_skip = region.weights.W_skip
        return add_skip(self.hook_sae_recons(region.decode()), x, None if W_skip is None else W_skip.detach())


def vary_skip(transcoder: TrainingTranscoder[Any], vary: Variation, seed: int = 0) -> None:
    """Let the skip connection be trained as a variation says.

    Args:
        transcoder: one with a skip connection that is 0; is changed.
        vary: low rank, or from the term alone, or neither.
        seed: decides what is drawn.
    """
    if vary.skip_by_term:
        own = type(transcoder)
        transcoder.__class__ = type(f"SkipByTerm{own.__name__}", (SkipByTerm, own), {})
    if vary.skip_rank is not None:
        register_parametrization(transcoder, "W_skip", LowRank(vary.skip_rank, seed))


def plain_skip(transcoder: nn.Module) -> None:
    """Put the matrix itself where `vary_skip` put a product.

    Args:
        transcoder: is changed, where its skip connection is a product.
    """
    if is_parametrized(transcoder, "W_skip"):
        remove_parametrizations(transcoder, "W_skip", leave_parametrized=True)
