"""What is compared: kinds of transcoders, and what they are trained to match beside the layer's outputs."""

from typing import Any, Literal

from pydantic import Field, model_validator

from faithfulness_plugin.benchmarks.note.trainer.augmentation import Augmentation
from faithfulness_plugin.language_model.transcoder_settings import Architecture, checked_settings
from faithfulness_plugin.measure.config import HALF_WAY
from faithfulness_plugin.results.schema import Record

PROBES = {"isotropic": "rademacher", "difference": "difference", "pair": "pair"}


class Arm(Record):
    """What is matched beside outputs at the rows themselves."""

    term: Literal["none", "jvp", "secant", "augmentation"] = "none"
    probe: Literal["isotropic", "difference", "pair"] | None = None
    coefficient: float = Field(default=0.0, ge=0)
    gate_bandwidth: float | None = Field(default=None, description="jvp: gates get a gradient, over this width")

    @model_validator(mode="after")
    def _makes_sense(self) -> "Arm":
        if (self.term == "none") != (self.probe is None) or (self.term == "none") != (self.coefficient == 0):
            raise ValueError(f"{self.term}: a term has a probe and a coefficient, and none has neither")
        if self.gate_bandwidth is not None and self.term != "jvp":
            raise ValueError("gate_bandwidth belongs to jvp: the others' gates get a gradient as it is")
        if self.term == "augmentation" and self.probe == "pair":
            raise ValueError("augmentation is by noise (isotropic) or towards other rows (difference)")
        return self

    @property
    def name(self) -> str:
        """The name in tables."""
        if self.term == "none":
            return "no term"
        term = f"{self.term} {self.probe}"
        if self.term == "augmentation":
            term = f"{'noise' if self.probe == 'isotropic' else 'interpolation'} augmentation"
        gates = " with gates" if self.gate_bandwidth is not None else ""
        return f"{term}{gates} {self.coefficient:g}"

    @property
    def jacobian(self) -> dict[str, Any] | None:
        """What is asked of the layer, as a JacobianMatchingConfig's fields; augmentation needs a secant's outputs.

        Secants and augmentation go half the way along a difference, and along isotropic and pair probes the same
        multiple of the inputs' rms coordinate and of the pair."""
        if self.probe is None:
            return None
        if self.term == "jvp":
            return {"probe": PROBES[self.probe], "gate_bandwidth": self.gate_bandwidth}
        return {"estimator": "secant", "probe": PROBES[self.probe], "radius": HALF_WAY}


NONE = Arm()
"""No term: the arm that the others are compared with."""


class Kind(Record):
    """A kind of transcoder."""

    architecture: Literal["topk", "relu"] = "topk"
    sparsity: float = Field(default=32, gt=0, description="topk: k; relu: the coefficient of the tanh penalty")
    skip: bool = False

    @model_validator(mode="after")
    def _whole(self) -> "Kind":
        if self.architecture == "topk" and self.sparsity != int(self.sparsity):
            raise ValueError(f"topk keeps a whole number of features, not {self.sparsity:g}")
        return self

    @property
    def name(self) -> str:
        """The name in tables."""
        of = f"k {self.sparsity:g}" if self.architecture == "topk" else f"penalty {self.sparsity:g}"
        return f"{self.architecture} {of}{' skip' * self.skip}"

    @property
    def _named(self) -> Architecture:
        return "standard" if self.architecture == "relu" else "topk"

    def _sparsity(self) -> dict[str, Any]:
        return {"sparsity_coefficient": self.sparsity} if self.architecture == "relu" else {"k": int(self.sparsity)}

    def checked(self, d_sae: int) -> None:
        """Refuse settings that do not fit, before SAELens is loaded.

        Args:
            d_sae: features.

        Raises:
            ValueError: a setting does not fit.
        """
        checked_settings(self._named, {"d_sae": d_sae, **self._sparsity()})

    def config(self, arm: Arm, *, d_in: int, d_out: int, d_sae: int, device: str) -> Any:
        """Build the config of a transcoder that is trained as an arm says.

        Args:
            arm: what is matched.
            d_in: width of the layer's input.
            d_out: width of its output.
            d_sae: features.
            device: where it is trained.

        Returns:
            The config.
        """
        from faithfulness_plugin.benchmarks.methods.controls import augmented
        from faithfulness_plugin.transcoders.architectures import ARCHITECTURES

        config_class: Any = ARCHITECTURES[self._named][0]
        fields = self._sparsity()
        fields |= {"d_in": d_in, "d_out": d_out, "d_sae": d_sae, "skip": self.skip, "device": device}
        if arm.term != "augmentation":
            return config_class(**fields, jacobian=arm.jacobian, jacobian_coefficient=arm.coefficient)
        kind = "noise" if arm.probe == "isotropic" else "interpolation"
        return augmented(config_class(**fields, jacobian=arm.jacobian), Augmentation(kind, arm.coefficient, HALF_WAY))
