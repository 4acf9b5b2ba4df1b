"""An attribution graph: what features, errors and tokens contribute to features and logits at one prompt."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True, repr=False)
class AttributionGraph:
    """A[target, source] is what the source adds to the target: to a feature's pre-activation, or to a logit less the
    mean over the vocabulary.

    Nodes stand in circuit-tracer's order: features by block, position and number; errors by block and position; tokens;
    logits. Rows of errors and tokens are 0: nothing is a source of theirs.
    """

    tokens: Int[Tensor, " pos"]
    features: Int[Tensor, "features 3"]
    """(block, position, feature) of each feature that is a node."""
    acts: Float[Tensor, " features"]
    n_blocks: int
    logit_tokens: Int[Tensor, " logits"]
    logit_probabilities: Float[Tensor, " logits"]
    adjacency: Float[Tensor, "nodes nodes"]
    values: Float[Tensor, " nodes"]
    """What each target is worth: a feature's activation, a logit less the mean; 0 for sources alone."""
    rest: Float[Tensor, " nodes"]
    """What of it comes from no node: biases of the model and the transcoders, what layers put out at tokens that are
    left out, and features that fire and are not nodes."""
    n_active: int
    """How many features fire on the prompt."""
    without: tuple[int, ...] = ()
    """Blocks without a transcoder: all that their layers put out counts as error."""

    def __repr__(self) -> str:
        cut = "" if self.n_active == len(self.features) else f" of {self.n_active} that fire"
        without = f", no transcoder in blocks {list(self.without)}" if self.without else ""
        return (
            f"AttributionGraph({len(self.features)} features{cut}, {self.n_blocks} blocks, {len(self.tokens)} tokens, "
            f"{len(self.logit_tokens)} logits{without})"
        )

    @property
    def n_features(self) -> int:
        """The number of features that are nodes."""
        return len(self.features)

    @property
    def errors(self) -> slice:
        """The error nodes."""
        return slice(self.n_features, self.n_features + self.n_blocks * len(self.tokens))

    @property
    def embeddings(self) -> slice:
        """The token nodes."""
        return slice(self.errors.stop, self.errors.stop + len(self.tokens))

    @property
    def logits(self) -> slice:
        """The logit nodes."""
        return slice(self.embeddings.stop, len(self.adjacency))

    @property
    def weights(self) -> Float[Tensor, " nodes"]:
        """Each logit's probability, and 0 for all other nodes: what influence is counted from."""
        weights = self.adjacency.new_zeros(len(self.adjacency))
        weights[self.logits] = self.logit_probabilities.to(weights)
        return weights

    def total_effects(self) -> Float[Tensor, "nodes nodes"]:
        """Sum the products of edges over all paths through nodes of the graph: T = A + U T = (I - U)^-1 A, where
        U[target, source] = A[target, source] / activation of the source is the effect of one unit of a feature.

        Returns:
            T[target, source]: by how much the target's value changes, while gates hold, when what the source adds is
            added once more. With all features as nodes these are the effects that `predicted_effects` computes.
        """
        order = torch.arange(len(self.adjacency), device=self.adjacency.device)
        order = torch.cat(
            [order[self.errors.start : self.embeddings.stop], order[: self.n_features], order[self.logits]]
        )
        acts = torch.ones(len(order), dtype=torch.float64, device=order.device)
        acts[: self.n_features] = self.acts.double()
        direct = self.adjacency.double()[order][:, order]
        units = direct / acts[order]  # strictly below the diagonal: features add to those of later blocks alone
        eye = torch.eye(len(order), dtype=units.dtype, device=order.device)
        total = torch.linalg.solve_triangular(eye - units, direct, upper=False, unitriangular=True)
        back = order.argsort()
        return total[back][:, back].to(self.adjacency.dtype)
