"""What transcoders make of a prompt: features that fire, what they read and write, and what is left as error."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from faithfulness_plugin.attribution.across_layers import decoders_to_later
from faithfulness_plugin.attribution.local import LinearPart
from faithfulness_plugin.attribution.replaced_layers import ReplacedLayers
from faithfulness_plugin.display import short_repr
from faithfulness_plugin.errors import UsageError
from faithfulness_plugin.jacobian.linear_region import Weights, known_region
from faithfulness_plugin.layers.hooks import Hook
from faithfulness_plugin.transcoders.layer_views import LayerView


@dataclass(frozen=True)
class BlockFeatures:
    """The features of one block that fire on a prompt, and the error that they leave."""

    weights: Weights | None
    """The transcoder's; None for a block without one."""
    positions: Int[Tensor, " active"]
    """In ascending order; the first token and others that are left out have no features."""
    features: Int[Tensor, " active"]
    acts: Float[Tensor, " active"]
    error: Float[Tensor, "pos d_out"]
    """What the layer puts out less what the transcoder does; 0 at tokens that are left out."""
    kept: Bool[Tensor, " pos"]
    later: Mapping[int, Float[Tensor, "d_sae d_out"]] = field(default_factory=dict)
    """The decoders to later blocks, by block; only a cross-layer transcoder has any."""

    __repr__ = short_repr

    def up_to(self, length: int) -> "BlockFeatures":
        """Return the features of the first tokens alone.

        Args:
            length: how many tokens.

        Returns:
            A view.
        """
        n = int((self.positions < length).sum())
        return replace(
            self,
            positions=self.positions[:n],
            features=self.features[:n],
            acts=self.acts[:n],
            error=self.error[:length],
            kept=self.kept[:length],
        )

    def reads(self, which: Int[Tensor, " some"]) -> Float[Tensor, "some d_in"]:
        """Return what features read, W_enc^i.

        Args:
            which: indices into `features`.

        Returns:
            The directions.
        """
        assert self.weights is not None
        return self.weights.W_enc.T[self.features[which]]

    def writes(
        self, which: Int[Tensor, " some"] | None = None, *, to: int | None = None
    ) -> Float[Tensor, "some d_out"]:
        """Compute what features write, a_i W_dec^i.

        Args:
            which: indices into `features`; None for all.
            to: a block of `later`; None for their own.

        Returns:
            The vectors.
        """
        if self.weights is None:
            return self.error.new_zeros(0, self.error.shape[-1])
        some = slice(None) if which is None else which
        W_dec = self.weights.W_dec if to is None else self.later[to]
        return self.acts[some, None] * W_dec[self.features[some]]

    def skip(self, x: Float[Tensor, "1 pos d_in"]) -> Float[Tensor, "1 pos d_out"] | None:
        """Compute W_skip x at the tokens that the transcoder stands for: what of it is linear for good.

        Args:
            x: the layer's input.

        Returns:
            The product; None without a skip connection.
        """
        if self.weights is None or self.weights.W_skip is None:
            return None
        return self.kept[:, None] * (x.to(self.weights.W_skip.dtype) @ self.weights.W_skip.mT)

    def through_gates(self, x: Float[Tensor, "1 pos d_in"]) -> Float[Tensor, "1 pos d_out"] | None:
        """Compute W_dec (g * (W_enc x)) + W_skip x at the tokens that the transcoder stands for, with the gates g of
        the prompt.

        Args:
            x: the layer's input.

        Returns:
            The product; None for a block without a transcoder.
        """
        if self.weights is None:
            return None
        # of the features at each position alone: [pos, most at one, d_in] and [pos, most at one, d_out]
        reads, _ = by_position(self.positions, self.weights.W_enc.T[self.features], len(self.kept))
        writes, _ = by_position(self.positions, self.weights.W_dec[self.features], len(self.kept))
        # [pos, 1, d_in] @ [pos, d_in, most at one] @ [pos, most at one, d_out] -> [1, pos, d_out]
        written = (x.to(reads.dtype).transpose(0, 1) @ reads.mT @ writes).transpose(0, 1)
        skip = self.skip(x)
        return written if skip is None else written + skip

    def pulled_through(self, to: int, g: Float[Tensor, "targets 1 pos d_out"]) -> Float[Tensor, "targets 1 pos d_in"]:
        """Differentiate what features write to a later block, W_dec (g * (W_enc x)), by what they read.

        Args:
            to: a block of `later`.
            g: derivatives of targets to what is written there.

        Returns:
            Their derivatives to this layer's input.
        """
        assert self.weights is not None
        reads, _ = by_position(self.positions, self.weights.W_enc.T[self.features], len(self.kept))
        writes, _ = by_position(self.positions, self.later[to][self.features], len(self.kept))
        # [pos, targets, d_out] @ [pos, d_out, most at one] @ [pos, most at one, d_in]
        return (g[:, 0].transpose(0, 1).to(writes.dtype) @ writes.mT @ reads).transpose(0, 1)[:, None]


@dataclass(frozen=True)
class PromptFeatures:
    """The features of all blocks that fire on a prompt."""

    tokens: Int[Tensor, "1 pos"]
    kept: Bool[Tensor, " pos"]
    blocks: list[BlockFeatures]
    logits: Float[Tensor, " vocab"]
    """The logits at the last position."""

    __repr__ = short_repr

    @property
    def table(self) -> Int[Tensor, "active 3"]:
        """(block, position, feature) of all of them, in this order."""
        rows = [
            torch.stack([torch.full_like(of.positions, block), of.positions, of.features], 1)
            for block, of in enumerate(self.blocks)
        ]
        return torch.cat(rows)

    @property
    def starts(self) -> list[int]:
        """Where each block's features begin in the table, and at last how many there are."""
        return [0, *accumulate(len(of.features) for of in self.blocks)]

    def reads(self, which: Int[Tensor, " some"]) -> Float[Tensor, "some d_in"]:
        """Return what features of several blocks read.

        Args:
            which: indices into the table, those of one block side by side.

        Returns:
            The directions, W_enc^i.
        """
        at, starts = self.table[which, 0], self.starts
        blocks = at.unique_consecutive().tolist()
        return torch.cat([self.blocks[block].reads(which[at == block] - starts[block]) for block in blocks])

    @property
    def acts(self) -> Float[Tensor, " active"]:
        """Their activations."""
        return torch.cat([of.acts for of in self.blocks])

    def across(
        self, block: int, g: Float[Tensor, "targets 1 pos d_out"]
    ) -> dict[int, Float[Tensor, "targets 1 pos d_in"]]:
        """Differentiate what features of earlier blocks write to a block, by what they read.

        Args:
            block: the block.
            g: derivatives of targets to what is written there.

        Returns:
            Their derivatives to the inputs of earlier blocks' layers, by block; empty without a cross-layer transcoder.
        """
        return {
            source: of.pulled_through(block, g) for source, of in enumerate(self.blocks[:block]) if block in of.later
        }

    @property
    def skips(self) -> list[LinearPart]:
        """For `Local.of`: a feature's effect ends at the features that read it."""
        return [of.skip for of in self.blocks]

    @property
    def gates(self) -> list[LinearPart]:
        """For `Local.of`: a feature's effect goes on through the features that read it."""
        return [of.through_gates for of in self.blocks]


def by_position(
    positions: Int[Tensor, " active"], vectors: Float[Tensor, "active d"], n_pos: int
) -> tuple[Float[Tensor, "pos most d"], Int[Tensor, " active"]]:
    """Lay vectors of features out by position, with 0 where a position has fewer than another.

    Args:
        positions: each feature's, in ascending order.
        vectors: each feature's.
        n_pos: the number of positions.

    Returns:
        The vectors, and which place each feature has at its position.
    """
    counts = torch.bincount(positions, minlength=n_pos)
    places = torch.arange(len(positions), device=positions.device) - (counts.cumsum(0) - counts)[positions]
    laid = vectors.new_zeros(n_pos, int(counts.max()), vectors.shape[-1])
    laid[positions, places] = vectors
    return laid, places


@torch.no_grad()
def prompt_features(
    replaced: ReplacedLayers, tokens: Int[Tensor, "prompts pos"], kept: Bool[Tensor, " tokens"] | None = None
) -> PromptFeatures:
    """Run the model, and transcoders on what their layers read there.

    Args:
        replaced: the layers and transcoders.
        tokens: one prompt.
        kept: tokens that transcoders stand for. At the others the layers' outputs are constants. None leaves out the
            first, whose rows are outliers that transcoders are rarely trained on.

    Returns:
        The features and errors of all blocks.

    Raises:
        UsageError: not one prompt; a `kept` of another length; as `decoders_to_later`, `known_region` and `Hooks.run`.
    """
    if tokens.ndim != 2 or len(tokens) != 1:
        raise UsageError(f"tokens of shape {list(tokens.shape)}: a graph is of one prompt, tokens [1, pos]")
    replaced.hooks.require_tokens(tokens)
    if kept is None:
        kept = torch.arange(tokens.shape[1], device=tokens.device) > 0
    if kept.shape != tokens.shape[1:]:
        raise UsageError(f"kept has shape {list(kept.shape)}: pass one flag per token, {list(tokens.shape[1:])}")
    seen: dict[tuple[str, int], Tensor] = {}

    def keep(side: str, block: int) -> Hook:
        return lambda activation: seen.__setitem__((side, block), activation.detach().clone())

    hooks: dict[str, Hook] = {}
    for block, layer in enumerate(replaced.layers):
        hooks |= {layer.hook_in: keep("in", block), layer.hook_out: keep("out", block)}
    logits = replaced.hooks.run(tokens, hooks)[0, -1]
    later = decoders_to_later(replaced.transcoders)
    blocks = [
        replace(
            _of_block(replaced.transcoders, block, seen["in", block][0], seen["out", block][0], kept),
            later=later.get(block, {}),
        )
        for block in range(len(replaced.layers))
    ]
    for of in blocks:
        for block in of.later:  # what earlier features write is no error
            error = blocks[block].error
            error.index_add_(0, of.positions, -of.writes(to=block).to(error.dtype))
    return PromptFeatures(tokens, kept, blocks, logits)


def _of_block(transcoders: Mapping[int, Any], block: int, x: Tensor, y: Tensor, kept: Tensor) -> BlockFeatures:
    none = torch.zeros(0, dtype=torch.long, device=x.device)
    if block not in transcoders:
        return BlockFeatures(None, none, none, x.new_zeros(0), y * kept[:, None], kept)
    of = transcoders[block]
    sizes = of if isinstance(of, LayerView) else getattr(of, "cfg", None)
    widths = x.shape[-1], y.shape[-1]
    theirs = getattr(sizes, "d_in", x.shape[-1]), getattr(sizes, "d_out", y.shape[-1])
    if theirs != widths:
        raise UsageError(
            f"the transcoder of block {block} maps {theirs[0]} to {theirs[1]} and the layer {widths[0]} to "
            f"{widths[1]}: is it a transcoder of this model?"
        )
    region = of.own_region(x) if isinstance(of, LayerView) else known_region(of, x)
    active = region.active()
    rows, features = active.rows, active.features
    acts = region.feature_acts.to_dense() if region.feature_acts.is_sparse else region.feature_acts
    here = kept[rows]
    rows, features = rows[here], features[here]
    error = (y - region.output().to(y.dtype)) * kept[:, None]
    return BlockFeatures(region.weights, rows, features, acts[rows, features], error, kept)
