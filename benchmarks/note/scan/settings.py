"""All that decides what one toy transcoder of a scan becomes."""

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from faithfulness_plugin.benchmarks.note.toy_records import EVALUATION_REPEAT, VALIDATION_SEED, LayerName
from faithfulness_plugin.jacobian.matching_config import as_config
from faithfulness_plugin.results.schema import Record

if TYPE_CHECKING:  # settings are read and refused before torch is loaded
    from faithfulness_plugin.benchmarks.note.toy_problem import ToyProblem
    from faithfulness_plugin.benchmarks.note.trainer.member import ToyMember

Architecture = Literal["standard", "topk", "batch_topk", "jumprelu"]

SPARSITY: dict[Architecture, tuple[str, ...]] = {
    "standard": ("sparsity", "sparsity_coefficient", "tanh_scale"),
    "topk": ("k",),
    "batch_topk": ("k",),
    "jumprelu": ("l0_coefficient",),
}
"""The settings that say how sparse a transcoder of each architecture is."""
JACOBIAN = ("estimator", "probe", "n_probes", "radius", "central", "jitter", "gate_bandwidth", "seed")


class Settings(Record):
    """One transcoder of |x|, or of a control layer. Losses are per-row sums, averaged over the batch."""

    layer: LayerName = Field(default="abs", description="what is replaced: see `ToyProblem.layer`")
    n_neurons: int = Field(default=24, ge=1, description='layer "superposition": its ReLU neurons')
    d_in: int = Field(default=16, ge=2, le=512, description="width of the layer")
    d_sae: int = Field(default=64, ge=1, le=8192, description="features of the transcoder")
    density: float = Field(default=0.1, gt=0, le=1, description="probability that a coordinate is not 0")
    repeat_frac: float = Field(default=0.05, ge=0, lt=1, description="probability that a row is the point p")
    n_ones: int = Field(default=3, ge=2, description="ones in p")
    batch_size: int = Field(default=256, ge=2, description="rows a step")
    n_steps: int = Field(default=4000, ge=1, description="optimizer steps")
    lr: float = Field(default=3e-3, gt=0, description="Adam's rate; 2.5 % warm-up, decay over the last 30 %")
    architecture: Architecture = Field(default="standard", description="how the transcoder is kept sparse")
    k: float = Field(default=2.0, gt=0, description='"topk" and "batch_topk": features active per row')
    l0_coefficient: float = Field(default=0.1, ge=0, description='"jumprelu": weight of the L0 penalty')
    sparsity: Literal["tanh", "l1"] = Field(default="tanh", description='"standard": shape of the penalty')
    sparsity_coefficient: float = Field(default=0.2, ge=0, description="its weight")
    tanh_scale: float = Field(default=1.0, gt=0, description="its scale")
    jacobian_coefficient: float = Field(default=0.0, ge=0, description="weight of the Jacobian term; 0: none")
    jacobian_warm_up: float = Field(default=1 / 8, ge=0, le=1, description="share of the steps over which it grows")
    estimator: Literal["jvp", "vjp", "secant", "exact"] = Field(default="jvp", description="how it is estimated")
    probe: Literal["rademacher", "gaussian", "sphere", "pair", "difference"] = Field(
        default="rademacher", description="along which directions"
    )
    n_probes: int = Field(default=1, ge=1, le=64, description="directions per row")
    radius: float = Field(default=0.5, gt=0, description="the secant's step")
    central: bool = Field(default=False, description="the secant from x - step v to x + step v")
    jitter: float = Field(default=0.0, ge=0, description="noise on x before Jacobians are compared")
    gate_bandwidth: float | None = Field(default=None, gt=0, description="straight-through gates")
    gradient_masking_coefficient: float = Field(default=0.0, ge=0, description="weight of the gradient-masking penalty")
    augmentation: Literal["noise", "interpolation"] | None = Field(
        default=None, description="outputs matched at other points: the control"
    )
    augmentation_coefficient: float = Field(default=1.0, gt=0, description="its weight")
    augmentation_scale: float = Field(default=0.5, gt=0, description="how far these points are")
    seed: int = Field(default=0, ge=0, lt=2**62, description="of data, weights and probes")

    @model_validator(mode="after")
    def _fits(self) -> "Settings":
        if self.n_ones > self.d_in:
            raise ValueError(f"n_ones={self.n_ones} ones do not fit in d_in={self.d_in} coordinates")
        if self.architecture.endswith("topk") and self.k > self.d_sae:
            raise ValueError(f"k={self.k:g}: at most d_sae={self.d_sae} features can be active")
        if self.architecture == "topk" and self.k != round(self.k):
            raise ValueError(f"k={self.k:g}: TopK keeps a whole number of features in each row")
        if self.seed == VALIDATION_SEED:
            raise ValueError(f"seed {VALIDATION_SEED} draws the validation rows: choose another")
        if self.gate_bandwidth is not None and self.jacobian_coefficient > 0 and self.architecture != "standard":
            raise ValueError(
                f"the ensemble trains {self.architecture} without straight-through gates: leave gate_bandwidth out, "
                'or choose the architecture "standard"'
            )
        as_config(self._jacobian())
        return self

    def _jacobian(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in JACOBIAN}

    def member(self) -> "ToyMember":
        """Build the transcoder as an ensemble takes it.

        Returns:
            The member, with these settings.
        """
        from faithfulness_plugin.benchmarks.note.trainer.augmentation import Augmentation
        from faithfulness_plugin.benchmarks.note.trainer.member import ToyMember
        from faithfulness_plugin.transcoders.architectures import ARCHITECTURES

        own = {name: getattr(self, name) for name in SPARSITY[self.architecture]}
        if self.architecture == "topk":
            own["k"] = round(self.k)
        config = ARCHITECTURES[self.architecture][0](
            d_in=self.d_in,
            d_sae=self.d_sae,
            jacobian=self._jacobian(),
            jacobian_coefficient=self.jacobian_coefficient,
            jacobian_warm_up_steps=round(self.jacobian_warm_up * self.n_steps),
            gradient_masking_coefficient=self.gradient_masking_coefficient,
            **own,
        )
        augmentation = None
        if self.augmentation is not None:
            augmentation = Augmentation(self.augmentation, self.augmentation_coefficient, self.augmentation_scale)
        return ToyMember(
            transcoder=config,
            seed=self.seed,
            density=self.density,
            repeat_frac=self.repeat_frac,
            n_ones=self.n_ones,
            batch_size=self.batch_size,
            augmentation=augmentation,
        )

    @property
    def schedule(self) -> dict[str, Any]:
        """Steps and learning rate, as `train_ensemble` takes them."""
        return {
            "n_steps": self.n_steps,
            "lr": self.lr,
            "lr_warm_up_steps": self.n_steps // 40,
            "lr_decay_steps": 3 * self.n_steps // 10,
        }

    def problem(self, n_validation: int, n_jacobian: int, repeat_frac: float = EVALUATION_REPEAT) -> "ToyProblem":
        """Build the layer and the evaluation rows.

        Args:
            n_validation: rows that metrics are measured on.
            n_jacobian: of these, rows for exact Jacobians.
            repeat_frac: share of the rows that are p where circuits are looked for.

        Returns:
            The problem; settings that differ only in training have equal ones.
        """
        from faithfulness_plugin.benchmarks.note.toy_problem import ToyProblem

        n_neurons = self.n_neurons if self.layer == "superposition" else 0
        return ToyProblem(
            self.d_in, self.density, repeat_frac, self.n_ones, n_validation, n_jacobian, self.layer, n_neurons
        )
