"""How well predicted effects agree with measured ones, in sums that add up over prompts."""

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float
from pydantic import Field
from scipy.stats import spearmanr
from torch import Tensor

from faithfulness_plugin.results.schema import Record

FEW = 3
"""Pairs below which a prompt has no rank correlation."""


class EffectSums(Record):
    """Sums over pairs of a predicted effect p and a measured one m, on one prompt."""

    n: int
    p: float
    m: float
    pp: float
    mm: float
    pm: float
    squared_error: float = Field(description="sum of (p - m)^2")
    same_sign: int = Field(description="pairs with p m > 0")
    signed: int = Field(description="pairs with m other than 0")
    rank: float = Field(description="Spearman's correlation over the prompt's pairs; 0 where it is undefined")
    ranked: int = Field(description="1 where it is defined, else 0")

    @classmethod
    def of(cls, predicted: Float[Tensor, " pairs"], measured: Float[Tensor, " pairs"]) -> "EffectSums":
        """Sum over the pairs of one prompt.

        Args:
            predicted: the effects that a graph predicts.
            measured: the same effects in the model.

        Returns:
            The sums.

        Example:
            >>> import torch
            >>> m = torch.tensor([1.0, -2.0, 3.0])
            >>> sums = EffectSums.of(m / 2, m).parts()[None]  # one seed
            >>> {name: round(float(statistic(sums)), 3) for name, statistic in STATISTICS.items()}
            {'linear correlation': 1.0, 'rank correlation': 1.0, 'sign agreement': 1.0, 'normalised error': 0.25}
        """
        p, m = predicted.double(), measured.double()
        defined = len(p) >= FEW and bool((p != p[0]).any()) and bool((m != m[0]).any())
        return cls(
            n=len(p),
            p=p.sum().item(),
            m=m.sum().item(),
            pp=p.square().sum().item(),
            mm=m.square().sum().item(),
            pm=(p * m).sum().item(),
            squared_error=(p - m).square().sum().item(),
            same_sign=int((p * m > 0).sum()),
            signed=int((m != 0).sum()),
            rank=float(np.asarray(spearmanr(p.cpu().numpy(), m.cpu().numpy()))[0]) if defined else 0.0,
            ranked=int(defined),
        )

    def parts(self) -> np.ndarray:
        """Return the sums as a vector, in the order of the fields.

        Returns:
            One part for each field: stacked over prompts they are what `hierarchical_bootstrap` resamples.
        """
        return np.array([getattr(self, name) for name in FIELDS], dtype=float)


FIELDS = tuple(EffectSums.model_fields)


def _statistic(of: Callable[[dict[str, np.ndarray]], Any]) -> Callable[[np.ndarray], np.ndarray]:
    def statistic(sums: np.ndarray) -> np.ndarray:
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(of(dict(zip(FIELDS, np.moveaxis(sums, -1, 0), strict=True))).mean(-1))

    return statistic


def _correlation(s: dict[str, np.ndarray]) -> np.ndarray:
    covariance = s["pm"] - s["p"] * s["m"] / s["n"]
    return covariance / np.sqrt((s["pp"] - s["p"] ** 2 / s["n"]) * (s["mm"] - s["m"] ** 2 / s["n"]))


STATISTICS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "linear correlation": _statistic(_correlation),
    "rank correlation": _statistic(lambda s: s["rank"] / s["ranked"]),
    "sign agreement": _statistic(lambda s: s["same_sign"] / s["signed"]),
    "normalised error": _statistic(lambda s: s["squared_error"] / s["mm"]),
}
"""Functions of sums over prompts [..., seeds, parts], averaged over seeds, for `hierarchical_bootstrap`.

- linear correlation: Pearson's, over all pairs;
- rank correlation: Spearman's within a prompt, mean over prompts;
- sign agreement: the share of the pairs with an effect whose prediction has its sign; chance is 1/2;
- normalised error: sum of (p - m)^2 / sum of m^2; predicting no effect gives 1.
"""
