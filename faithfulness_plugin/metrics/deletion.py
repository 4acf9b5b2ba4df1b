"""Deletion curves: how much an answer depends on the features that attribution ranks first."""

from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from faithfulness_plugin.metrics.result import MetricResult
from faithfulness_plugin.rounding import beyond_rounding


@dataclass(frozen=True)
class Deletion(MetricResult):
    """Means over prompts. s: the score of an answer, such as the log-probability of the next token."""

    sizes: tuple[int, ...]
    """m: how many features are deleted."""
    by_attribution: tuple[float, ...]
    """(s_0 - s_del(m)) / |s_0 - s_empty|, clipped to [-1, 1], where those are deleted that attribution ranks first."""
    at_random: tuple[float, ...]
    """That ratio with as many random ones of the other active features deleted."""
    excess: tuple[float, ...]
    """by_attribution - at_random: 0 says that the ranking knows nothing."""


def deletion(
    whole: Float[Tensor, " prompts"],
    empty: Float[Tensor, " prompts"],
    by_attribution: Float[Tensor, "sizes prompts"],
    at_random: Float[Tensor, "sizes prompts"],
    sizes: Sequence[int],
) -> Deletion:
    """Compute deletion curves from an answer's scores with features deleted.

    Each point is the mean over prompts of (s_0 - s_del(m)) / |s_0 - s_empty|, clipped to [-1, 1]. Prompts on which
    deleting all features changes nothing (up to rounding) are left out.

    Args:
        whole: s_0, the score with all features, such as the log-probability of the next token.
        empty: s_empty, the score with all features deleted.
        by_attribution: s_del(m) with the m features deleted that attribution ranks first.
        at_random: s_del(m) with m random active features deleted.
        sizes: m, the number of features deleted at each point.

    Returns:
        Both curves and their difference.

    Raises:
        ValueError: deleting all features changes the answer on no prompt.

    A ranking that finds the one feature that matters scores 1 where chance scores 0:

        >>> import torch
        >>> whole, empty = torch.tensor([2.0, 3.0]), torch.tensor([0.0, 1.0])
        >>> deletion(whole, empty, empty[None], whole[None], sizes=[1])
        Deletion(sizes=(1,), by_attribution=(1.0,), at_random=(0.0,), excess=(1.0,))
    """
    span = (whole - empty).abs()
    counts = (beyond_rounding(whole[:, None], empty[:, None]) != 0).flatten()
    if not counts.any():
        raise ValueError("deleting all features changes no answer, so that there is no curve to draw")

    def curve(scores: Tensor) -> Tensor:
        # [sizes, prompts] -> [sizes, prompts that count] -> [sizes]
        return ((whole - scores)[:, counts] / span[counts]).clamp(-1, 1).mean(1)

    first, second = curve(by_attribution), curve(at_random)
    return Deletion(tuple(sizes), *(tuple(values.tolist()) for values in (first, second, first - second)))
