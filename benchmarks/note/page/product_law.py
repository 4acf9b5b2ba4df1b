"""Whether emergence is decided by the product of two settings."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from faithfulness_plugin.extras import require_extra

LITTLE = 0.01


@dataclass(frozen=True)
class ProductLaw:
    """Binomial regressions of emergence on logarithms. Deviance explained: 1 - deviance / that of a constant."""

    product: float
    """Explained by log(repeat_frac * sparsity) alone."""
    both: float
    """Explained by both logarithms, with a weight each."""
    repeat: float
    """Explained by log(repeat_frac) alone."""
    sparsity: float
    """Explained by log(sparsity) alone."""
    exponent: float
    """In the fit on both: the weight of log(sparsity) over log(repeat_frac)'s; 1 says that the product decides."""
    threshold: float
    """The product at which the law by the product alone passes one half."""
    curved: float
    """Explained by the log of the product and the square of log(repeat_frac / sparsity), a law with bent iso-lines."""


def product_law(
    repeat_frac: Sequence[float], sparsity: Sequence[float], emerged: Sequence[int], n: Sequence[int]
) -> ProductLaw:
    """Fit logit(share that memorises) on log r + log s, on log r and log s apart, and on each alone.

    `LITTLE` is added to both counts: a law without exceptions would have no finite fit.

    Args:
        repeat_frac: of each cell, positive.
        sparsity: of each cell, positive.
        emerged: seeds of the cell that memorise, of `n`.
        n: seeds of the cell.

    Returns:
        What each fit explains of the deviance, and the product's exponent and threshold.

    Raises:
        ValueError: all cells memorise alike, so that there is nothing to explain.
    """
    require_extra("bench", "statsmodels")
    import statsmodels.api as sm

    r, s = np.log(np.asarray(repeat_frac, float)), np.log(np.asarray(sparsity, float))
    counts = np.column_stack([np.asarray(emerged) + LITTLE, np.asarray(n) - np.asarray(emerged) + LITTLE])
    if np.ptp(counts[:, 0] / counts.sum(1)) == 0:
        raise ValueError("emergence is the same in all cells, so that no law can be fitted: scan a wider grid")

    def fit(*logs: np.ndarray):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # counts that are no whole numbers
            return sm.GLM(counts, sm.add_constant(np.column_stack(logs)), family=sm.families.Binomial()).fit()

    def explained(result) -> float:
        return float(1 - result.deviance / result.null_deviance)

    product, both = fit(r + s), fit(r, s)
    return ProductLaw(
        product=explained(product),
        both=explained(both),
        repeat=explained(fit(r)),
        sparsity=explained(fit(s)),
        exponent=float(both.params[2] / both.params[1]),
        curved=explained(fit(r + s, (r - s - np.mean(r - s)) ** 2)),
        threshold=float(np.exp(-product.params[0] / product.params[1])),
    )
