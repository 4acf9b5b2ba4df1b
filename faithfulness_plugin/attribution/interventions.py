"""Changes whose effects a graph predicts, and the true model shows."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from faithfulness_plugin.attribution.features import PromptFeatures
from faithfulness_plugin.attribution.local import EMBEDDING
from faithfulness_plugin.errors import UsageError

Kind = Literal["remove", "double", "remove token's features", "input"]
HALF_WAY = 0.5


@dataclass(frozen=True)
class Intervention:
    """A change of what features of one layer write at one token, or of a token's embedding."""

    kind: Kind
    block: int
    """EMBEDDING for "input"."""
    position: int
    which: tuple[int, ...] = ()
    """The features whose writes are removed or doubled, as indices into those of the block."""
    towards: int | None = None
    """The position in the prompt whose token's embedding an input is moved towards, half-way."""

    def changes(
        self, features: PromptFeatures, embedding: Float[Tensor, "pos d_model"]
    ) -> dict[int, Float[Tensor, " d"]]:
        """Compute what is added to what layers write, or to the embedding.

        Args:
            features: those of the prompt; another set's with equal gates says what that set takes the change for.
            embedding: the embeddings of the prompt's tokens.

        Returns:
            The vectors, by block: one, but for features of a cross-layer transcoder, which write to several layers.
        """
        if self.towards is not None:
            return {EMBEDDING: HALF_WAY * (embedding[self.towards] - embedding[self.position])}
        of, which = features.blocks[self.block], torch.tensor(self.which, dtype=torch.long)
        written = {self.block: of.writes(which)} | {later: of.writes(which, to=later) for later in of.later}
        sign = 1 if self.kind == "double" else -1
        return {block: sign * each.sum(0) for block, each in written.items()}


def draw_interventions(features: PromptFeatures, n_each: int, seed: int) -> list[Intervention]:
    """Draw interventions of each kind: single features that fire, all features of one block that fire on one token, and
    tokens that are moved towards another token of the prompt.

    Args:
        features: those of the prompt.
        n_each: how many of each kind.
        seed: decides which; draw before anything is measured.

    Returns:
        The interventions; features uniformly from all that fire, and tokens from those that transcoders stand for.

    Raises:
        UsageError: no feature fires on the prompt, or all of its tokens are equal.
    """
    table, generator = features.table, torch.Generator().manual_seed(seed)
    if not len(table):
        raise UsageError("no feature fires on this prompt, so there is nothing to change: pass another prompt")
    tokens = features.tokens[0]
    movable = [
        (int(at), int(to))
        for at in features.kept.nonzero()[:, 0]
        for to in range(len(tokens))
        if tokens[at] != tokens[to]
    ]
    if not movable:
        raise UsageError(
            "all tokens of the prompt are equal, so none can be moved towards another: pass another prompt"
        )
    starts = features.starts

    def some(n: int) -> list[int]:
        return torch.randint(n, (n_each,), generator=generator).tolist()

    found: list[Intervention] = []
    for kind in ("remove", "double"):
        for row in some(len(table)):
            block, position, _ = table[row].tolist()
            found.append(Intervention(kind, block, position, (row - starts[block],)))
    for row in some(len(table)):
        block, position, _ = table[row].tolist()
        which = (features.blocks[block].positions == position).nonzero()[:, 0].tolist()
        found.append(Intervention("remove token's features", block, position, tuple(which)))
    for pair in some(len(movable)):
        at, to = movable[pair]
        found.append(Intervention("input", EMBEDDING, at, towards=to))
    return found


def draw_targets(features: PromptFeatures, n: int, seed: int) -> Int[Tensor, " targets"]:
    """Draw features whose responses are compared, uniformly from all that fire behind the first block.

    Args:
        features: those of the prompt.
        n: how many, or as many as there are.
        seed: decides which.

    Returns:
        Indices into `features.table`, in ascending order.
    """
    later = (features.table[:, 0] > 0).nonzero()[:, 0]
    order = torch.randperm(len(later), generator=torch.Generator().manual_seed(seed))[:n]
    return later[order.to(later.device)].sort().values
