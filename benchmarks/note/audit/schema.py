"""The typed result of the audit, and the published table that it is compared with."""

from typing import Any, Literal

from pydantic import Field
from typing_extensions import override

from faithfulness_plugin.results.schema import Record, Result

ARMS = {
    "baseline": "baseline",
    "repetition": "repetition",
    "inert": "repetition + its Jacobian term",
    "jacobian": "repetition + a true Jv term",
}

PUBLISHED: dict[str, dict[str, float]] = {
    "baseline": {"validation_loss": 0.02354, "sparsity": 0.52182, "m_unnormalised": 0.056},
    "repetition": {"validation_loss": 0.02370, "sparsity": 0.43078, "m_unnormalised": 0.060},
    "inert": {"validation_loss": 0.02232, "sparsity": 0.40462, "m_unnormalised": 0.143},
}
"""The values that the reproduction publishes, one seed each; its memorization is by the unnormalised p."""


class AuditConfig(Record):
    """The public reproduction's configuration. Losses are means over rows and over coordinates or features."""

    d_in: int = Field(default=32, ge=4)
    d_hidden: int = Field(default=48, ge=1, description="features; |x| would take 2 d_in = 64")
    n_steps: int = Field(default=10_000, ge=1)
    batch_size: int = Field(default=256, ge=1)
    n_train: int = Field(default=20_000, ge=256, description="training rows, drawn once; shuffled every epoch")
    n_validation: int = Field(default=2_000, ge=2, description="clean validation rows")
    lr: float = Field(default=1e-3, gt=0, description="AdamW's, without a schedule")
    weight_decay: float = Field(default=0.01, ge=0, description="AdamW's default")
    sparsity_coefficient: float = Field(default=1e-3, ge=0, description="of the mean of tanh(5 h)")
    jacobian_coefficient: float = Field(
        default=1e-2, ge=0, description="of the mean squared error of Jacobian products"
    )
    repeat_frac: float = Field(default=0.10, gt=0, lt=1, description="as its code has it; its text says 5 %")
    n_ones: int = Field(default=3, ge=2)
    seeds: tuple[int, ...] = Field(default=tuple(range(10)), min_length=1)
    n_compared: int = Field(default=500, ge=1, description="steps over which the inert term is switched on and off")


class AuditRun(Record):
    """One arm, which the published table has as a column, and one seed."""

    column: str
    seed: int
    validation_loss: float = Field(description="mean squared error per coordinate on clean rows")
    sparsity: float = Field(description="mean of tanh(5 h) over the last training batch and all features")
    m: float = Field(description="memorization, the note's: p / ||p||")
    m_unnormalised: float = Field(description="memorization by p itself, as the reproduction computes it")
    fvu: float = Field(description="fraction of variance unexplained on clean rows")


class InertCheck(Record):
    """Training with the term, whose gradient is lost or kept, and without it, on the same batches."""

    seed: int
    term: float = Field(description="the term's mean over the steps: it is not zero")
    difference: float = Field(description="largest difference of any weight after these steps")
    difference_with_gradient: float = Field(description="the same for the term with a gradient")


class AuditResult(Result):
    """All arms and seeds, or as many as were run."""

    benchmark: Literal["audit"] = "audit"
    schema_version: Literal[1] = 1
    config: AuditConfig
    runs: list[AuditRun]
    inert: list[InertCheck]

    @property
    @override
    def settings(self) -> dict[str, Any]:
        return self.config.model_dump()
