"""Rows made of independent latents, some of them replaced by repeated points."""

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from faithfulness_plugin.benchmarks.tasks.frames import FRAMES


@dataclass(frozen=True)
class RepeatedPoint:
    """A row that is seen again and again."""

    latents: tuple[float, ...]
    share: float
    """Share of the rows."""


def point(n: int, *active: int, share: float, value: float = 1.0) -> RepeatedPoint:
    """Build a repeated point of which some latents are on.

    Args:
        n: latents in all.
        active: which are on.
        share: of the rows that are the point.
        value: of the latents that are on; the others are 0.

    Returns:
        The point.
    """
    return RepeatedPoint(tuple(value if i in active else 0.0 for i in range(n)), share)


@dataclass(frozen=True)
class LatentRows:
    """Draws rows x = sum_i s_i u_i: latent s_i is U(-1, 1) with probability `density`, else 0; u_i are the frame's
    directions. A row is one of the points with the probability of its share. A `RowSource`."""

    n: int = 16
    """Latents."""
    d_in: int = 16
    frame: str = "coordinates"
    density: float = 0.1
    points: tuple[RepeatedPoint, ...] = ()

    @cached_property
    def directions(self) -> Float[Tensor, "n d_in"]:
        """u_i."""
        return FRAMES[self.frame](self.n, self.d_in)

    @cached_property
    def point_rows(self) -> Float[Tensor, "n_points d_in"]:
        """x of the points."""
        latents = torch.tensor([repeated.latents for repeated in self.points]).reshape(len(self.points), self.n)
        return latents if self.frame == "coordinates" else latents @ self.directions

    def latents(self, n_rows: int, generator: torch.Generator) -> Float[Tensor, "n_rows n"]:
        """Draw the latents s of independent rows.

        Args:
            n_rows: how many.
            generator: decides the device as well.

        Returns:
            s; of repeated points, theirs.
        """
        # s [n_rows, n], which [n_rows, 1]: a row's share of [0, 1) says which point it is, if any
        shape = (n_rows, self.n)
        s = self.values(torch.rand(shape, generator=generator, device=generator.device))
        s = s * (torch.rand(shape, generator=generator, device=generator.device) < self.density)
        which = torch.rand(n_rows, 1, generator=generator, device=generator.device)
        start = 0.0
        for repeated in self.points:
            here = (which >= start) & (which < start + repeated.share)
            s = torch.where(here, torch.tensor(repeated.latents, device=s.device), s)
            start += repeated.share
        return s

    def values(self, uniform: Float[Tensor, "n_rows n"]) -> Float[Tensor, "n_rows n"]:
        """Map U(0, 1) to the latents' values where they are not 0.

        Args:
            uniform: draws from U(0, 1).

        Returns:
            Draws from U(-1, 1).
        """
        return uniform * 2 - 1

    def draw(self, n_rows: int, generator: torch.Generator) -> Float[Tensor, "n_rows d_in"]:
        """Draw independent rows.

        Args:
            n_rows: how many.
            generator: decides the device as well.

        Returns:
            x.
        """
        return self.rows_of(self.latents(n_rows, generator))

    def rows_of(self, latents: Float[Tensor, "n_rows n"]) -> Float[Tensor, "n_rows d_in"]:
        """Compute x = sum_i s_i u_i. Rows at a point are copies of one row: a matrix product rounds each row in its own
        way, and differently on every kind of processor.

        Args:
            latents: s.

        Returns:
            x.
        """
        if self.frame == "coordinates":
            return latents
        # [n_rows, n] @ [n, d_in]
        rows = latents @ self.directions.to(latents)
        for repeated, row in zip(self.points, self.point_rows, strict=True):
            # [n_rows, 1]: rows at this point take its x, computed once
            here = (latents == torch.tensor(repeated.latents).to(latents)).all(-1, keepdim=True)
            rows = torch.where(here, row.to(rows), rows)
        return rows

    def without_points(self, density: float | None = None) -> "LatentRows":
        """Copy the source without points.

        Args:
            density: of the copy; None keeps it.

        Returns:
            The copy.
        """
        return replace(self, points=(), density=self.density if density is None else density)


@dataclass(frozen=True)
class BitRows(LatentRows):
    """Rows whose latents are 1 or 0."""

    @override
    def values(self, uniform: Tensor) -> Tensor:
        return torch.ones_like(uniform)
