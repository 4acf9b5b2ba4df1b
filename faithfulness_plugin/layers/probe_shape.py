"""The shape of probes: one for each row, or several, with n_probes in front."""

import torch
from jaxtyping import Float
from torch import Tensor


def each_probe(x: Float[Tensor, "*batch d"], v: Float[Tensor, "*probes_batch d"]) -> list[Tensor]:
    """List the probes one by one: a function of [batch, d_in] need not take more dimensions.

    Args:
        x: the rows that they belong to.
        v: one probe a row, or several, with n_probes in front.

    Returns:
        The probes, each of x's shape.

    Raises:
        ValueError: v does not fit x.
    """
    check_probe_shape(x.shape, v)
    return [v] if v.ndim == x.ndim else list(v)


def check_probe_shape(rows: torch.Size, v: Tensor) -> None:
    """Check that v is [..., d] or [n_probes, ..., d] for rows of shape [..., d].

    Args:
        rows: the shape of the rows.
        v: the probes.

    Raises:
        ValueError: it is neither.
    """
    several = v.ndim == len(rows) + 1 and v.shape[1:] == rows and v.shape[0] > 0
    if v.shape != rows and not several:
        raise ValueError(
            f"the probes have shape {list(v.shape)} but the rows they belong to {list(rows)}: pass v of that "
            "shape, or with n_probes in front"
        )
