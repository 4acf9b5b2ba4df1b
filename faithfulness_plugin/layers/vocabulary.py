"""A model's tokens as rows of its residual stream, and its logits as directions of it."""

from itertools import product
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from faithfulness_plugin.display import short_repr

EPS = (1e-5, 1e-6, 1e-8, 1e-12, 0.0)
"""What norms may add to the variance."""


class NormScale(NamedTuple):
    """What a norm does beside dividing by the row's size: y = scale * x / size + shift, with x less its mean where it
    is centred (LayerNorm)."""

    scale: Float[Tensor, " d"]
    centred: bool
    divides: bool
    """False where nothing stands between: y = x."""

    __repr__ = short_repr

    def fold(self, directions: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """Compute what becomes of directions at a row of size 1: scale * v, v less its mean where centred.

        Args:
            directions: of the norm's input.

        Returns:
            The same number of directions of its output.
        """
        directions = directions - directions.mean(-1, keepdim=True) if self.centred else directions
        return directions * self.scale.to(directions)

    def pull(self, directions: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """Compute what of the norm's input directions of its output read, at a row of size 1: the transpose of `fold`.

        Args:
            directions: of the norm's output.

        Returns:
            The same number of directions u of its input, with <u, v> = <direction, fold(v)>.
        """
        directions = directions * self.scale.to(directions)
        return directions - directions.mean(-1, keepdim=True) if self.centred else directions

    def sizes(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch"]:
        """Compute what the norm divides rows by.

        Args:
            x: the rows.

        Returns:
            The root of their mean square, of x less its mean where centred; 1 where nothing is divided.
        """
        if not self.divides:
            return x.new_ones(x.shape[:-1])
        x = x - x.mean(-1, keepdim=True) if self.centred else x
        return x.square().mean(-1).sqrt().clamp_min(1e-12)

    def rows(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """Compute the norm of rows, without its shift.

        Args:
            x: the rows.

        Returns:
            scale * x / size.
        """
        return self.fold(x) / self.sizes(x)[..., None]


class Vocabulary(NamedTuple):
    """What turns tokens into rows of the residual stream, and its last rows into logits."""

    embedding: Float[Tensor, "n_vocab d_model"]
    unembedding: Float[Tensor, "d_model n_vocab"]
    norm: NormScale
    """The final one, before the unembedding."""

    __repr__ = short_repr


@torch.no_grad()
def norm_scale(x: Float[Tensor, "*batch d"], y: Float[Tensor, "*batch d"]) -> NormScale | None:
    """Find the scale of the norm that makes y of x, from the rows alone: classes keep it as w, 1 + w, or have folded it
    away.

    Of each coordinate, scale and shift are fitted by least squares, for a LayerNorm and for an RMSNorm.

    Args:
        x: what the norm was given, three rows or more.
        y: what it put out.

    Returns:
        The scale; ones where y is x. None where y is no norm of x.

    Example:
        >>> norm, x = torch.nn.RMSNorm(4, eps=1e-6), torch.randn(8, 4)
        >>> _ = torch.nn.init.normal_(norm.weight)
        >>> found = norm_scale(x, norm(x))
        >>> torch.testing.assert_close(found.scale.float(), norm.weight.detach(), rtol=1e-3, atol=1e-4)
    """
    if x.shape != y.shape or not x.dtype.is_floating_point:
        return None
    tolerance = 1e-4 if y.dtype in (torch.float32, torch.float64) else 2e-2
    x, y = (each.detach().double().reshape(-1, each.shape[-1]) for each in (x, y))
    size = y.abs().max()
    if len(x) < 3 or not size:
        return None
    if (x - y).abs().max() <= tolerance * size:
        return NormScale(torch.ones_like(x[0]), centred=False, divides=False)
    found: list[tuple[float, NormScale]] = []
    for centred, eps in product((False, True), EPS):
        n = x - x.mean(-1, keepdim=True) if centred else x
        n = n / (n.square().mean(-1, keepdim=True) + eps).sqrt()
        apart, moved = n - n.mean(0), y - y.mean(0)  # the shift is gone
        scale = (apart * moved).sum(0) / apart.square().sum(0).clamp_min(1e-30)
        error = (moved - scale * apart).abs().max().item()
        found.append((error, NormScale(scale, centred=centred, divides=True)))
    error, best = min(found, key=lambda each: each[0])
    return best if error <= tolerance * size else None
