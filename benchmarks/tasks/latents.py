"""Rows made of independent latents, some of them replaced by repeated points."""

from dataclasses import dataclass, replace
from functools import lru_cache

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
    """Of the rows."""


def point(n: int, *active: int, share: float, value: float = 1.0) -> RepeatedPoint:
    """The point whose latents of these numbers are `value`, and the others 0."""
    return RepeatedPoint(tuple(value if i in active else 0.0 for i in range(n)), share)


@dataclass(frozen=True)
class LatentRows:
    """x = sum_i s_i u_i: latent s_i is U(-1, 1) with probability `density`, else 0; u_i are the frame's directions. A
    row is one of the points with the probability of its share. A `RowSource`."""

    n: int = 16
    """Latents."""
    d_in: int = 16
    frame: str = "coordinates"
    density: float = 0.1
    points: tuple[RepeatedPoint, ...] = ()

    @property
    def directions(self) -> Float[Tensor, "n d_in"]:
        """u_i."""
        return _directions(self.frame, self.n, self.d_in)

    def latents(self, n_rows: int, generator: torch.Generator) -> Float[Tensor, "n_rows n"]:
        """s of independent rows."""
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
        """What latents are where they are not 0, from U(0, 1)."""
        return uniform * 2 - 1

    def draw(self, n_rows: int, generator: torch.Generator) -> Float[Tensor, "n_rows d_in"]:
        """Independent rows."""
        return self.rows_of(self.latents(n_rows, generator))

    def rows_of(self, latents: Float[Tensor, "n_rows n"]) -> Float[Tensor, "n_rows d_in"]:
        """x of latents. Rows at a point are copies of one row: products of several sizes are rounded each in their own
        way, and differently by every kind of processor."""
        if self.frame == "coordinates":
            return latents
        rows = latents @ self.directions.to(latents)
        for repeated, row in zip(self.points, self.point_rows, strict=True):
            here = (latents == torch.tensor(repeated.latents).to(latents)).all(-1, keepdim=True)
            rows = torch.where(here, row.to(rows), rows)
        return rows

    @property
    def point_rows(self) -> Float[Tensor, "n_points d_in"]:
        """x of the points."""
        return _point_rows(self.frame, self.n, self.d_in, self.points)

    def without_points(self, density: float | None = None) -> "LatentRows":
        """The same without points; of another density, where it is given."""
        return replace(self, points=(), density=self.density if density is None else density)


@dataclass(frozen=True)
class BitRows(LatentRows):
    """The same with latents that are 1 or 0."""

    @override
    def values(self, uniform: Tensor) -> Tensor:
        return torch.ones_like(uniform)


@lru_cache(maxsize=16)
def _directions(frame: str, n: int, d_in: int) -> Tensor:
    return FRAMES[frame](n, d_in)


@lru_cache(maxsize=16)
def _point_rows(frame: str, n: int, d_in: int, points: tuple[RepeatedPoint, ...]) -> Tensor:
    latents = torch.tensor([repeated.latents for repeated in points]).reshape(len(points), n)
    return latents if frame == "coordinates" else latents @ _directions(frame, n, d_in)
