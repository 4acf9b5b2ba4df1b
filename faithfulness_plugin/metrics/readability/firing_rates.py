"""How often features fire: quantiles of their rates, and the shares that never or nearly always do."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from faithfulness_plugin.metrics.result import MetricResult

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
DENSE = 0.1
"""A feature that fires on more of the rows than this is dense."""


@dataclass(frozen=True)
class FiringRates(MetricResult):
    """The distribution of firing rates over the features of one transcoder."""

    quantiles: tuple[float, ...]
    """The quantiles of log10 rate over live features, at `QUANTILES`; empty where no feature fires."""
    dead: float
    """The share of features that fire on no row."""
    dense: float
    """The share of live features that fire on more than a tenth of the rows; 0 where no feature fires."""


def firing_rates(fires: Int[np.ndarray, " d_sae"], n_rows: int) -> FiringRates:
    """Summarise how often features fire.

    The rate of feature i is the share of rows with a_i > 0; dead features, whose rate has no logarithm, count in `dead`
    alone.

    Args:
        fires: the number of rows on which each feature fires.
        n_rows: the number of rows.

    Returns:
        Quantiles of log10 rate over live features, and the shares of dead and of dense features.

    Raises:
        ValueError: no rows.

    Source: the feature density histograms of Bricken et al. 2023, "Towards Monosemanticity".

        >>> firing_rates(np.array([0, 1, 10, 100]), 1000).quantiles[2]
        -2.0
    """
    if n_rows < 1:
        raise ValueError("n_rows=0: firing rates need rows")
    rates = fires[fires > 0] / n_rows
    if not len(rates):
        return FiringRates((), 1.0, 0.0)
    quantiles = tuple(float(q) for q in np.quantile(np.log10(rates), QUANTILES))
    return FiringRates(quantiles, float((fires == 0).mean()), float((rates > DENSE).mean()))
