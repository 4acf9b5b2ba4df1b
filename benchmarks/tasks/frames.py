"""Directions in which latents stand in a row: unit vectors [n, d]."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from scipy.linalg import hadamard
from torch import Tensor

from faithfulness_plugin.seeds import derived_seed


def coordinates(n: int, d: int) -> Float[Tensor, "n d"]:
    """Take the first n of d coordinates.

    Args:
        n: how many, at most d.
        d: their width.

    Returns:
        Unit rows.
    """
    return torch.eye(d)[:n]


def rotation(n: int, d: int) -> Float[Tensor, "n d"]:
    """Take rows of a fixed random rotation: no coordinate is special.

    Args:
        n: how many, at most d.
        d: their width.

    Returns:
        Orthonormal rows.
    """
    generator = torch.Generator().manual_seed(derived_seed(0, f"rotation {d}"))
    q, r = torch.linalg.qr(torch.randn(d, d, dtype=torch.float64, generator=generator))
    return (q * r.diagonal().sign())[:, :n].T.float().contiguous()


def spikes_and_waves(n: int, d: int) -> Float[Tensor, "n d"]:
    """Take more directions than dimensions: the coordinates, then rows of Hadamard's matrix over sqrt(d).

    No two of them have a product above 1 / sqrt(d), and no set of 2 d directions has less.

    Args:
        n: how many, d < n <= 2 d.
        d: their width, a power of 2.

    Returns:
        Unit rows.
    """
    return torch.cat([torch.eye(d), torch.from_numpy(hadamard(d)).float() / d**0.5])[:n]


FRAMES: dict[str, Callable[[int, int], Tensor]] = {
    function.__name__: function for function in (coordinates, rotation, spikes_and_waves)
}
"""The frames by name."""
