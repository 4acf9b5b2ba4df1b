"""Whether a few rows make most of the variance that the fraction of variance unexplained divides by."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from faithfulness_plugin.metrics.result import MetricResult

FEW = 0.02


@dataclass(frozen=True)
class VarianceConcentration(MetricResult):
    """How the variance of a layer's outputs is spread over rows."""

    rows_for_half: float
    """The least share of the rows that makes more than half of E||f - E f||^2."""
    of_top: float
    """The share of the variance that the 2 % of the rows with most of it make."""

    @property
    def concentrated(self) -> bool:
        """Whether fewer than 2 % of the rows make more than half of the variance: the FVU is then theirs."""
        return self.rows_for_half < FEW

    @property
    def warning(self) -> str:
        """One line for those who read the numbers; "" where the variance is spread."""
        if not self.concentrated:
            return ""
        return (
            f"{100 * self.rows_for_half:.2g} % of the rows make more than half of the variance that FVU divides by "
            f"(2 % make {100 * self.of_top:.0f} %), so it says little of the others; first tokens are often such rows"
        )


def variance_concentration(y: Float[Tensor, "rows d_out"]) -> VarianceConcentration:
    """Measure whether a few rows make most of the variance of a layer's outputs.

    Read it before an FVU: where it is `concentrated`, a transcoder that knows a handful of rows (attention sinks of a
    hundred times the usual norm) and nothing else has an FVU near 0. Leave such rows out (`LeftOut`).

    Args:
        y: the layer's outputs.

    Returns:
        The least share of the rows that makes more than half of E||y - E y||^2, and the share that the top 2 % make.

    Raises:
        ValueError: no rows, or outputs that are the same on all rows.

    One row of a hundred makes almost all of the variance:

        >>> import torch
        >>> y = torch.zeros(100, 1)
        >>> y[0] = 1.0
        >>> variance_concentration(y).rows_for_half
        0.01
    """
    wide = y.double()
    return concentration_of((wide - wide.mean(0)).square().sum(-1))


def concentration_of(energy: Float[Tensor, " rows"]) -> VarianceConcentration:
    """Compute `variance_concentration` from each row's energy.

    Args:
        energy: ||y - E y||^2 of each row.

    Returns:
        As `variance_concentration`.

    Raises:
        ValueError: no rows, or no energy on any row.
    """
    n_rows, total = len(energy), energy.sum()
    if not n_rows or total == 0:
        raise ValueError(
            "the layer's output is the same on all rows, so it has no variance to explain: choose another layer, or "
            "other rows"
        )
    summed = energy.double().sort(descending=True).values.cumsum(0) / total
    n_half = int((summed <= 0.5).sum()) + 1
    top = max(1, int(FEW * n_rows))
    return VarianceConcentration(n_half / n_rows, summed[top - 1].item())
