"""Kinds of directions by name."""

from typing import Literal

Directions = Literal["isotropic", "data", "difference"]
"""Kinds of directions along which Jacobians are compared: R R^T is 1; the rows' covariance C; C + (mean - x)(mean -
x)^T, as of differences to other rows."""
DIRECTIONS: tuple[Directions, ...] = ("isotropic", "data", "difference")
