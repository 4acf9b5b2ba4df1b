"""Deletion curves: how much of an answer hangs on the features that are said to matter."""

from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from faithfulness_plugin.metrics.result import MetricResult
from faithfulness_plugin.rounding import beyond_rounding

SIZES = (1, 2, 4, 8, 16, 32, 64, 128)


@dataclass(frozen=True)
class Deletion(MetricResult):
    """Means over prompts. s: the score of an answer, such as the log-probability of the next token."""

    sizes: tuple[int, ...]
    """m: how many features are deleted."""
    by_attribution: tuple[float, ...]
    """(s_0 - s_del(m)) / |s_0 - s_empty|, clipped to [-1, 1], where those are deleted that attribution ranks first."""
    at_random: tuple[float, ...]
    """The same ratio with as many of the other active features deleted."""
    excess: tuple[float, ...]
    """by_attribution - at_random: 0 says that the ranking knows nothing."""


def deletion(
    whole: Float[Tensor, " prompts"],
    empty: Float[Tensor, " prompts"],
    by_attribution: Float[Tensor, "sizes prompts"],
    at_random: Float[Tensor, "sizes prompts"],
    sizes: Sequence[int],
) -> Deletion:
    """Compute the curves from scores with all features (s_0), with none (s_empty), and with m of them deleted.

    Prompts on which deleting all changes nothing (up to rounding) are left out.

    Raises:
        ValueError: that leaves no prompt.
    """
    span = (whole - empty).abs()
    counts = (beyond_rounding(whole[:, None], empty[:, None]) != 0).flatten()
    if not counts.any():
        raise ValueError("deleting all features changes no answer, so that there is no curve to draw")

    def curve(scores: Tensor) -> Tensor:
        return ((whole - scores)[:, counts] / span[counts]).clamp(-1, 1).mean(1)

    first, second = curve(by_attribution), curve(at_random)
    return Deletion(tuple(sizes), *(tuple(values.tolist()) for values in (first, second, first - second)))
