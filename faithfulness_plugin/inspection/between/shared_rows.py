"""What several layers of a model read at the same tokens, and the residual stream in front of each."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from faithfulness_plugin.display import short_repr
from faithfulness_plugin.inspection.sample import GIB
from faithfulness_plugin.layers.hooked_layer import HookedLayer
from faithfulness_plugin.layers.hooks import Hook, Hooks, Reached

ROWS = 16_384


class AtLayer(NamedTuple):
    """One layer at some tokens."""

    x: Float[Tensor, "rows d_in"]
    """What it reads."""
    stream: Float[Tensor, "rows d_model"] | None
    """What the norm in front of it is given; None where there is no norm of the stream."""


@dataclass(frozen=True)
class SharedRows:
    """Tokens that count for all layers of a set."""

    hooks: Hooks
    layers: Sequence[HookedLayer]
    streams: Sequence[str | None]
    """The tensor in front of each layer's norm."""
    tokens: Int[Tensor, "prompts pos"]
    kept: Bool[Tensor, "prompts pos"]
    prompts_per_pass: int

    __repr__ = short_repr

    @classmethod
    def of(
        cls,
        hooks: Hooks,
        layers: Sequence[HookedLayer],
        streams: Sequence[str | None],
        tokens: Int[Tensor, "prompts pos"],
        kept: Bool[Tensor, "prompts pos"],
        *,
        width: int,
        memory: float,
        most: int = ROWS,
    ) -> "SharedRows":
        """Choose prompts, evenly spread, so that their rows and bits of all features fit in a part of the memory.

        Args:
            hooks: the model's.
            layers: in the order of a run.
            streams: the tensor in front of each layer's norm, by name.
            tokens: the prompts of a sample.
            kept: the tokens that count for all of the layers.
            width: of all layers' inputs and features together, in numbers.
            memory: GiB; a quarter of it is used.
            most: tokens to look at.

        Returns:
            The tokens, one prompt at least.
        """
        length, room = tokens.shape[1], memory * GIB / 4
        n = max(1, min(len(tokens), most // length, int(8 * room / width / length)))  # a bit for each feature and token
        at = torch.linspace(0, len(tokens) - 1, n).round().long()
        per_pass = max(1, min(8, int(room / (4 * width * length))))
        return cls(hooks, layers, streams, tokens[at], kept[at], per_pass)

    @torch.no_grad()
    def parts(self) -> Iterator[list[AtLayer]]:
        """Run the model, some prompts at a time.

        Yields:
            What all layers read at the tokens that count, and the stream in front of each.
        """
        names = list(dict.fromkeys([*(layer.hook_in for layer in self.layers), *filter(None, self.streams)]))
        for start in range(0, len(self.tokens), self.prompts_per_pass):
            part = slice(start, start + self.prompts_per_pass)
            kept, seen = self.kept[part], dict[str, Tensor]()
            if not kept.any():
                continue

            def keep(name: str, seen: dict[str, Tensor] = seen, kept: Tensor = kept) -> Hook:
                def look(activation: Tensor) -> None:
                    seen[name] = activation[kept.to(activation.device)]
                    if len(seen) == len(names):
                        raise Reached

                return look

            self.hooks.visit(self.tokens[part].to(self.hooks.device), {name: keep(name) for name in names})
            yield [
                AtLayer(seen[layer.hook_in], None if stream is None else seen[stream])
                for layer, stream in zip(self.layers, self.streams, strict=True)
            ]
