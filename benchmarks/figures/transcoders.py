"""What figures of a user's own transcoders share: several by name, and the input at which they are drawn."""

from collections.abc import Mapping

from jaxtyping import Float
from torch import Tensor, nn

Transcoders = nn.Module | Mapping[str, nn.Module]
"""One transcoder, or several by name."""


def by_name(transcoders: Transcoders) -> Mapping[str, nn.Module]:
    """Return the transcoders by name.

    Args:
        transcoders: one transcoder, or several by name.

    Returns:
        Several, as they are; one by the name "the transcoder".
    """
    return {"the transcoder": transcoders} if isinstance(transcoders, nn.Module) else transcoders


def row_of(x: Float[Tensor, " d_in"]) -> Float[Tensor, "1 d_in"]:
    """Return an input as the one row of a batch.

    Args:
        x: one input.

    Returns:
        It as a batch.

    Raises:
        ValueError: x has another shape.
    """
    if x.ndim != 1:
        raise ValueError(f"x has shape {list(x.shape)}: pass one input, [d_in], such as rows[0]")
    return x[None]


def support_of(x: Float[Tensor, " d_in"]) -> int | None:
    """Count the coordinates that are not 0, where they come first.

    Args:
        x: one input.

    Returns:
        The number of them; None where they do not come first, or there are no others.
    """
    n = int((x != 0).sum())
    return n if 0 < n < len(x) and bool((x[:n] != 0).all()) else None
