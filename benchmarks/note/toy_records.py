"""What every experiment on toy layers reports, and the numbers that all of them share."""

from typing import Literal

from pydantic import Field

from faithfulness_plugin.results.schema import Record

VALIDATION_SEED = 1_000_003
EVALUATION_REPEAT = 0.05
"""The share of the rows that are p where circuits are looked for, unless a scan says otherwise."""
EMERGED = 0.1
"""m above this share of its maximum counts as memorization."""

LayerName = Literal["abs", "memorizing", "shuffled", "superposition"]


class RunMetrics(Record):
    """Measured on clean rows unless said otherwise; definitions in faithfulness_plugin.metrics."""

    m: float = Field(description="memorization at p")
    m_fraction: float = Field(description="m as a fraction of its maximum")
    fvu: float = Field(description="fraction of variance unexplained")
    l0: float = Field(description="features with a > 0, per row")
    effective_l0: float = Field(description="features that matter (1 % of the rms output norm), per row")
    dead_fraction: float = Field(description="share of features that never fire")
    validation_loss: float = Field(description="mean squared error per coordinate")
    sparsity: float = Field(description="mean of tanh(5 a) over features and rows")
    jacobian_error: float = Field(description="relative Jacobian error over columns with x != 0")
    jacobian_cosine: float = Field(description="Jacobian cosine over columns with x != 0")
    jacobian_error_data: float = Field(description="the same error in the data's directions")
    off_diagonal_energy: float = Field(description="share of ||J_t||_F^2 off the diagonal, at p")
    off_diagonal_norm: float = Field(description="Frobenius norm off the diagonal, at p")
    recovered: int = Field(description="of the layer's circuits, those with a feature of their own; rows hold p")
    precision: float = Field(description="recovered / live features")
    circuit_cosine: float = Field(description="mean cosine of circuits and their matched features")


class Projection(Record):
    """Circuit projection of the live features, on rows that hold p. Rounded to 4 decimals."""

    features: list[int] = Field(description="indices of the live features")
    weights: list[list[float]] = Field(description="[circuit][feature]")
    residual: list[float] = Field(description="[feature]")
