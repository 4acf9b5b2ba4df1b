"""What is compared: what transcoders match beside the layer's outputs, and the controls."""

import operator
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from faithfulness_plugin.benchmarks.note.trainer.augmentation import Augmentation
from faithfulness_plugin.benchmarks.real_layers.kinds import Kind
from faithfulness_plugin.benchmarks.real_layers.variation import SECANT_AND_JVP, Variation
from faithfulness_plugin.measure.config import HALF_WAY
from faithfulness_plugin.results.schema import Record

PROBES = {"isotropic": "rademacher", "difference": "difference", "pair": "pair"}
Control = Literal["constant map", "frozen skip", "layer init", "extra compute"]
WITH_SKIP: tuple[Control, ...] = ("constant map", "frozen skip")
"""Controls that are about the skip connection."""


class Arm(Record):
    """What is matched beside outputs at the rows themselves, and how the transcoder is made."""

    term: Literal["none", "jvp", "secant", "augmentation"] = "none"
    probe: Literal["isotropic", "difference", "pair"] | None = None
    coefficient: float = Field(default=0.0, ge=0)
    gate_bandwidth: float | None = Field(default=None, description="jvp: gates get a gradient, over this width")
    skip: bool = Field(default=False, exclude_if=operator.not_, description="a skip connection beside the features")
    control: Control | None = Field(
        default=None,
        exclude_if=lambda control: control is None,
        description="constant map: the layer's mean Jacobian as the skip connection, no features, no training; frozen "
        "skip: features beside that mean Jacobian, which stays; layer init: the dictionary begins at the MLP's own "
        "weights; extra compute: more steps, by the config's extra_compute",
    )
    layer: Literal["real", "permuted"] = Field(
        default="real",
        exclude_if=lambda layer: layer == "real",
        description="permuted: the MLP's weights in another order within each matrix; the rows x are the real model's",
    )
    vary: Variation | None = Field(
        default=None,
        exclude_if=lambda vary: vary is None,
        description="what is done otherwise than in the arm without it, to see what that is worth",
    )

    if TYPE_CHECKING:  # pydantic makes frozen records hashable at run time

        def __hash__(self) -> int:
            """Hash the fields."""
            ...

    @model_validator(mode="after")
    def _makes_sense(self) -> "Arm":
        if (self.term == "none") != (self.probe is None) or (self.term == "none") != (self.coefficient == 0):
            raise ValueError(f"{self.term}: a term has a probe and a coefficient, and none has neither")
        if self.gate_bandwidth is not None and self.term != "jvp":
            raise ValueError("gate_bandwidth belongs to jvp: the others' gates get a gradient as it is")
        if self.term == "augmentation" and self.probe == "pair":
            raise ValueError("augmentation is by noise (isotropic) or towards other rows (difference)")
        if self.control in WITH_SKIP and not self.skip:
            raise ValueError(f"{self.control}: the control is a skip connection: set skip: true")
        if self.term != "none" and self.control in ("constant map", "extra compute"):
            raise ValueError(f"{self.control}: the control has no term: leave term, probe and coefficient out")
        if self.vary is not None:
            self._require_variable(self.vary)
        return self

    def _require_variable(self, vary: Variation) -> None:
        of_skip, of_term = vary.skip_rank is not None or vary.skip_by_term, self.jacobian is not None
        for holds, message in (
            (self.control in (None, "layer init"), f"{self.control} is not varied: leave vary out"),
            (not of_skip or self.skip, "skip_rank and skip_by_term are about the skip connection: set skip: true"),
            (not vary.and_jvp or self.term == "secant", "and_jvp goes with term: secant"),
            (not vary.skip_by_term or of_term, "skip_by_term needs a term that the skip connection learns from"),
            (vary.n_probes is None or of_term, "n_probes belongs to jvp and secant"),
            (vary.term_warm_up is None or of_term, "term_warm_up belongs to jvp and secant"),
        ):
            if not holds:
                raise ValueError(f"vary: {message}")

    @property
    def name(self) -> str:
        """The name in tables."""
        if self.control == "constant map":
            return "constant map" + self._of_permuted
        made = {"frozen skip": "frozen mean Jacobian", "layer init": "layer's weights at first", None: None}
        parts = ["skip"] if self.skip and self.control != "frozen skip" else []
        parts += [made.get(self.control, self.control)] if self.control is not None else []
        if self.term != "none" or not parts:
            parts.append(self._term)
        if self.vary is not None:
            parts.append(self.vary.name)
        return ", ".join(map(str, parts)) + self._of_permuted

    @property
    def _of_permuted(self) -> str:
        return " (permuted layer)" if self.layer == "permuted" else ""

    @property
    def _term(self) -> str:
        if self.term == "none":
            return "no term"
        term = f"{self.term} {self.probe}"
        if self.term == "augmentation":
            term = f"{'noise' if self.probe == 'isotropic' else 'interpolation'} augmentation"
        gates = " with gates" if self.gate_bandwidth is not None else ""
        width = f" {self.gate_bandwidth:g}" if self.gate_bandwidth not in (None, 1.0) else ""
        return f"{term}{gates}{width} {self.coefficient:g}"

    @property
    def baseline(self) -> "Arm":
        """No term and no control, with the same features, skip connection and layer: what gains are compared with."""
        return Arm(skip=self.skip, layer=self.layer, vary=self.vary and self.vary.of_baseline)

    @property
    def unvaried(self) -> "Arm":
        """The arm without what it does otherwise: variations, gates with a gradient, another first dictionary."""
        control = None if self.control == "layer init" else self.control
        return self.model_copy(update={"vary": None, "gate_bandwidth": None, "control": control})

    @property
    def is_control(self) -> bool:
        """Whether it stands among the controls: what matching has to be ahead of, or is measured beside."""
        return self.control is not None or self.layer == "permuted" or self.term == "augmentation"

    @property
    def is_recipe(self) -> bool:
        """Whether it is matching with a skip connection, no control and no variation."""
        return self.skip and self.term != "none" and not self.is_control and self.vary is None

    @property
    def jacobian(self) -> dict[str, Any] | None:
        """The fields of a JacobianMatchingConfig; None where no derivative is matched.

        Secants go half the way along a difference, and along isotropic and pair probes the same multiple of the inputs'
        rms coordinate and of the pair."""
        if self.probe is None or self.term == "augmentation":
            return None
        fields: dict[str, Any] = {"probe": PROBES[self.probe]}
        if self.vary is not None and self.vary.n_probes is not None:
            fields["n_probes"] = self.vary.n_probes
        if self.term == "jvp":
            return {**fields, "gate_bandwidth": self.gate_bandwidth}
        both = self.vary is not None and self.vary.and_jvp
        return {**fields, "estimator": SECANT_AND_JVP if both else "secant", "radius": HALF_WAY}

    def config(self, kind: Kind, seed: int = 0, **fields: Any) -> Any:
        """Build the config of a transcoder that is trained as the arm says.

        Args:
            kind: architecture and sparsity.
            seed: decides the probes.
            fields: d_in, d_out, d_sae, device, and the term's warm-up.

        Returns:
            The config.
        """
        from faithfulness_plugin.benchmarks.methods.controls import augmented

        fields |= {"skip": self.skip, "jacobian": {**(self.jacobian or {}), "seed": seed}}
        if self.term != "augmentation":
            return kind.config(**fields, jacobian_coefficient=self.coefficient)
        name = "noise" if self.probe == "isotropic" else "interpolation"
        return augmented(kind.config(**fields), Augmentation(name, self.coefficient, HALF_WAY))


NONE = Arm()
"""No term and no skip connection: what every arm is compared with."""
SKIP = Arm(skip=True)
"""A skip connection and no term: what arms with one are compared with."""
