"""Every transcoder of a set beside its layer, from one pass over the prompts in bounded memory."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from faithfulness_plugin.language_model.layer_rows import to_digits
from faithfulness_plugin.language_model.replacement import ReplacementModel
from faithfulness_plugin.layers.hooks import Hook
from faithfulness_plugin.layers.read_and_write import read_and_write
from faithfulness_plugin.transcoders.skip import output_of


@dataclass
class Sums:
    """What is summed of one layer, in float64."""

    n_prompts: int
    rows: list[int] = field(default_factory=list)
    y: list[Tensor] = field(default_factory=list)
    """The sum of f over the rows of each prompt."""
    squares: list[float] = field(default_factory=list)
    """||f||^2, summed."""
    errors: list[float] = field(default_factory=list)
    """||t - f||^2, summed."""
    active: float = 0.0
    fired: Tensor | None = None

    def add(self, t: Float[Tensor, "rows d_out"], y: Float[Tensor, "rows d_out"], acts: Tensor) -> None:
        """Add the rows of one prompt.

        Args:
            t: what the transcoder writes.
            y: what the layer writes.
            acts: the transcoder's activations.
        """
        y, t = y.double(), t.double()
        self.rows.append(len(y))
        self.y.append(y.sum(0))
        self.squares.append(y.square().sum().item())
        self.errors.append((t - y).square().sum().item())
        self.active += (acts > 0).sum().item()
        fired = (acts > 0).any(0)
        self.fired = fired if self.fired is None else self.fired | fired

    def variance(self) -> list[float]:
        """Compute sum ||f - E f||^2 of each prompt = sum ||f||^2 - 2 <sum f, E f> + n ||E f||^2.

        Returns:
            One number a prompt.
        """
        mean = torch.stack(self.y).sum(0) / sum(self.rows)
        each = zip(self.squares, self.y, self.rows, strict=True)
        return [max(0.0, squares - 2 * (y @ mean).item() + n * (mean @ mean).item()) for squares, y, n in each]


@torch.no_grad()
def beside_layers(
    model: ReplacementModel,
    tokens: Int[Tensor, "prompts pos"],
    kept: Mapping[int, Bool[Tensor, "prompts pos"]],
    batch_size: int,
) -> dict[int, dict[str, Any]]:
    """Compare each transcoder of a set with its layer, at the inputs of the model as it is.

    Args:
        model: the set in its model.
        tokens: the prompts.
        kept: the tokens that count, by block.
        batch_size: prompts that the model is run on at a time.

    Returns:
        By block, the fields error, variance, l0 and dead_fraction of `LayerNumbers`.
    """
    sums = {block: Sums(len(tokens)) for block in model.transcoders}
    for start in range(0, len(tokens), batch_size):
        part = slice(start, start + batch_size)
        hooks: dict[str, Hook] = {}
        for block, transcoder in model.transcoders.items():
            hooks |= _compare(model, block, transcoder, kept[block][part], sums[block])
        model.hooks.visit(tokens[part], hooks)
    return {
        block: {
            "error": to_digits(of.errors),
            "variance": to_digits(of.variance()),
            "l0": of.active / max(1, sum(of.rows)),
            "dead_fraction": 0.0 if of.fired is None else (~of.fired).float().mean().item(),
        }
        for block, of in sums.items()
    }


def _compare(model: ReplacementModel, block: int, transcoder: Any, kept: Tensor, sums: Sums) -> dict[str, Hook]:
    inputs: list[Tensor] = []

    def read(x: Tensor) -> None:
        inputs.append(x)

    def write(y: Tensor) -> None:
        x = inputs.pop()
        for of_x, of_y, mask in zip(x, y, kept, strict=True):  # prompt by prompt: [pos, d] at the tokens that count
            rows = of_x[mask]
            acts = transcoder.encode(rows)
            sums.add(output_of(transcoder, rows, acts), of_y[mask], acts)

    return read_and_write(model.layers[block], read, write)
