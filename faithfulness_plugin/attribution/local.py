"""A model at one prompt, with patterns, scales and gates held: a linear map, block by block."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from faithfulness_plugin.attribution.held import Held
from faithfulness_plugin.attribution.replaced_layers import ReplacedLayers
from faithfulness_plugin.display import short_repr
from faithfulness_plugin.errors import UsageError

LinearPart = Callable[[Float[Tensor, "1 pos d_in"]], Float[Tensor, "1 pos d_out"] | None]
"""What a layer's output has of its input while gates hold, as a function of the input; None for nothing."""
Across = Callable[[int, Float[Tensor, "targets 1 pos d_out"]], Mapping[int, Float[Tensor, "targets 1 pos d_in"]]]
EMBEDDING = -1
"""Stands for the embedding where blocks are counted."""


@dataclass(frozen=True)
class Local:
    """The pieces between which the forward pass was cut, with autograd's graph of each.

    Block l maps `entries[l]` and `written[l]` to `reads[l]` and `exits[l]`; within it, only the attention branch, norms
    and the layer's linear part depend on the entry. What else the layer puts out is `written[l]`, a constant.
    """

    embedding: Tensor
    first: Tensor
    """The residual stream as the first block is given it."""
    logits: Float[Tensor, "1 pos vocab"]
    entries: list[Tensor]
    written: list[Tensor]
    reads: list[Tensor]
    exits: list[Tensor]
    last: Tensor
    """The residual stream as the final norm is given it."""

    __repr__ = short_repr

    @classmethod
    def of(cls, replaced: ReplacedLayers, tokens: Int[Tensor, "1 pos"], linear: Sequence[LinearPart]) -> "Local":
        """Run the model once, and keep the pieces.

        Args:
            replaced: the layers.
            tokens: one prompt.
            linear: for each block, the part of its layer's output that stays a function of the layer's input.

        Returns:
            The pieces; all values in them are the model's own.

        Raises:
            UsageError: the model has no hook at its embedding; as `Hooks.run`.
        """
        cuts: dict[str, tuple[Tensor, Tensor]] = {}  # what arrived, and the leaf that was passed on
        reads: dict[int, Tensor] = {}

        def cut(name: str) -> Callable[[Tensor], Tensor]:
            def hook(arrived: Tensor) -> Tensor:
                leaf = arrived.detach().clone().requires_grad_()
                cuts[name] = arrived, leaf
                return leaf.clone()  # some models add to it in place

            return hook

        def read(block: int) -> Callable[[Tensor], None]:
            return lambda x: reads.__setitem__(block, x)

        def write(block: int) -> Callable[[Tensor], Tensor]:
            def hook(y: Tensor) -> Tensor:
                part = linear[block](reads[block])
                leaf = (y if part is None else y - part.to(y.dtype)).detach().clone().requires_grad_()
                cuts[f"written {block}"] = y, leaf
                return leaf.clone() if part is None else leaf + part.to(y.dtype)

            return hook

        hooks: dict[str, Callable[[Tensor], Tensor | None]] = {"hook_embed": cut("embedding")}
        hooks |= {name: cut(name) for name in replaced.stream}
        for block, layer in enumerate(replaced.layers):
            at_entry = hooks.get(layer.hook_in)  # a layer without a norm in front of it reads the stream itself
            hooks |= {layer.hook_in: _after(at_entry, read(block)), layer.hook_out: write(block)}
        with torch.enable_grad(), Held():
            logits = replaced.hooks.run(tokens, hooks)
        arrived = [cuts[name][0] for name in replaced.stream]
        leaves = [cuts[name][1] for name in replaced.stream]
        return cls(
            embedding=cuts["embedding"][1],
            first=arrived[0],
            logits=logits,
            entries=leaves[:-1],
            written=[cuts[f"written {block}"][1] for block in range(len(replaced.layers))],
            reads=[reads[block] for block in range(len(replaced.layers))],
            exits=arrived[1:],
            last=leaves[-1],
        )

    def from_logits(self, tokens: Int[Tensor, " targets"]) -> Float[Tensor, "targets 1 pos d_model"]:
        """Differentiate logits of the last position, less the mean over the vocabulary, to the last block's output.

        Args:
            tokens: whose logits.

        Returns:
            The derivatives.
        """
        with torch.enable_grad():
            logits = self.logits[0, -1]
            targets = logits[tokens] - logits.mean()
        each = torch.eye(len(tokens), dtype=targets.dtype, device=targets.device)
        return _pulled([targets], [each], [self.last])[0]

    def pull(
        self,
        blocks: Int[Tensor, " targets"],
        positions: Int[Tensor, " targets"],
        directions: Float[Tensor, "targets d_in"],
        from_above: Float[Tensor, "above 1 pos d_model"] | None = None,
        across: Across = lambda block, g: {},
    ) -> Iterator[tuple[int, Float[Tensor, "seen pos d"]]]:
        """Differentiate targets to what every layer below them writes, block by block, and to the embedding.

        A target is <direction, the input of a block's layer at a position>. All pass one block at the same time; a
        target joins at its own block.

        Args:
            blocks: the block of each target, in descending order.
            positions: its position.
            directions: what it reads.
            from_above: derivatives to the last block's output, for targets above all blocks (logits); those come first,
                and have no place in the other arguments.
            across: what of a block's output is a function of earlier layers' inputs, differentiated: maps the block
                and derivatives to what its layer writes to derivatives to those inputs, by block.

        Returns:
            (block, derivatives of the targets seen so far to what that block's layer writes), from the top down to
            (EMBEDDING, derivatives to the embedding).
        """
        g = from_above
        crossed: dict[int, Tensor] = {}  # [targets, 1, pos, d_in] by block
        top = len(self.exits) - 1 if g is not None else int(blocks[0])
        for block in range(top, -1, -1):
            joining = blocks == block
            x, inputs = self.reads[block], [self.written[block], self.entries[block]]
            if joining.any() or block in crossed:
                n, before = int(joining.sum()), 0 if g is None else len(g)
                # [targets, 1, pos, d_in]: 0 but for what crosses, and at the joining targets' own positions
                read = x.new_zeros(before + n, *x.shape)
                read[torch.arange(before, before + n), 0, positions[joining]] = directions[joining].to(x.dtype)
                if block in crossed:
                    read[: len(crossed[block])] += crossed.pop(block).to(x.dtype)
                exits = self.exits[block]
                g = exits.new_zeros(n, *exits.shape) if g is None else torch.cat([g, exits.new_zeros(n, *exits.shape)])
                outputs, cotangents = [exits, x], [g, read]
            else:
                assert g is not None  # the first target is at the top
                outputs, cotangents = [self.exits[block]], [g]
            to_written, g = _pulled(outputs, cotangents, inputs)
            for source, part in across(block, to_written).items():
                if source in crossed:
                    part[: len(crossed[source])] += crossed[source]  # of fewer targets
                crossed[source] = part
            yield block, to_written[:, 0]
        assert g is not None
        yield EMBEDDING, _pulled([self.first], [g], [self.embedding])[0][:, 0]

    def require_linear(self) -> None:
        """Check that every block is linear with patterns and scales held: its derivatives do not depend on its inputs.

        Raises:
            UsageError: a block that is not: its attention or its norms are of a kind that is not known here.
        """
        generator = torch.Generator().manual_seed(0)

        def probe(x: Tensor) -> Tensor:
            return torch.randn(x.shape, generator=generator).to(x)

        for block, (out, read) in enumerate(zip(self.exits, self.reads, strict=True)):
            inputs = [self.written[block], self.entries[block]]
            with torch.enable_grad():
                first = torch.autograd.grad(
                    [out, read], inputs, [probe(out), probe(read)], create_graph=True, allow_unused=True
                )
                derivatives = [g for g in first if g is not None and g.requires_grad]
            again = [probe(g) for g in derivatives]
            second = torch.autograd.grad(derivatives, inputs, again, allow_unused=True) if derivatives else ()
            if any(g is not None and g.any() for g in second):
                raise UsageError(
                    f"block {block} is not linear while attention patterns and the scales of norms are held: its "
                    "attention or its norms are of a kind for which no graph is defined here"
                )


def _after(cut: Callable[[Tensor], Tensor | None] | None, read: Callable[[Tensor], None]) -> Callable[[Tensor], Any]:
    """Return a hook that reads what the cut passes on, where there is one."""

    def hook(arrived: Tensor) -> Tensor | None:
        passed = None if cut is None else cut(arrived)
        read(arrived if passed is None else passed)
        return passed

    return hook


def _pulled(outputs: Sequence[Tensor], cotangents: Sequence[Tensor], inputs: Sequence[Tensor]) -> list[Tensor]:
    """Pull cotangents [targets, ...] of outputs back to inputs: 0 where an output does not depend on one."""
    found = torch.autograd.grad(
        outputs, inputs, cotangents, retain_graph=True, allow_unused=True, is_grads_batched=True
    )
    n = len(cotangents[0])
    return [x.new_zeros(n, *x.shape) if g is None else g for g, x in zip(found, inputs, strict=True)]
