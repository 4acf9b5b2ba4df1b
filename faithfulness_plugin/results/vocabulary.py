"""One name in tables for one quantity, in every report; result files keep their field names."""

from faithfulness_plugin.directions import Directions

DIRECTIONS: dict[Directions, str] = {"isotropic": "isotropic", "data": "pairs", "difference": "differences"}
"""Directions of Jacobians as tables call them: all alike; between pairs of inputs; from an input to others."""
RESPONSE_ERROR, HALF_WAY_ERROR = "response error", "response error, half-way"
"""Of steps by half the rms coordinate, in all directions alike; and half-way to another input."""
HALF_WAY_COSINE = "response cosine, half-way"


def jacobian_error(directions: Directions) -> str:
    """Name the relative Jacobian error in some directions.

    Args:
        directions: which.

    Returns:
        The column's name.
    """
    return f"Jacobian error, {DIRECTIONS[directions]}"


def jacobian_cosine(directions: Directions) -> str:
    """Name the cosine of the Jacobians in some directions.

    Args:
        directions: which.

    Returns:
        The column's name.
    """
    return f"Jacobian cosine, {DIRECTIONS[directions]}"
