"""What is compared: how the transcoders of all layers are trained, and the controls."""

from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from faithfulness_plugin.benchmarks.real_layers.arms import NONE, SKIP, Arm
from faithfulness_plugin.results.schema import Record

Then = Literal["KL", "KL and loss"]
Control = Literal["permuted model", "shuffled decoders"]


class SetArm(Record):
    """One way to train a set of transcoders, one for each layer, or a control."""

    arm: Arm = Field(default=NONE, description="how each is trained on its own layer")
    then: Then | None = Field(
        default=None,
        exclude_if=lambda then: then is None,
        description="what follows, with all layers replaced: KL lowers the divergence of the model's next token from "
        "that of the model as it is; KL and loss lowers each transcoder's own loss, its term included, as well",
    )
    control: Control | None = Field(
        default=None,
        exclude_if=lambda control: control is None,
        description="permuted model: all MLPs' weights in another order within each matrix; shuffled decoders: the "
        "arm's own transcoders, but predictions by copies whose features write in each other's directions",
    )

    if TYPE_CHECKING:  # pydantic makes frozen records hashable at run time

        def __hash__(self) -> int:
            """Hash the fields."""
            ...

    @model_validator(mode="after")
    def _makes_sense(self) -> "SetArm":
        if self.arm.control is not None or self.arm.layer != "real" or self.arm.vary is not None:
            raise ValueError(
                f"{self.arm.name}: sets have no controls or variations of a single layer: set control beside arm"
            )
        if self.then is not None and self.control == "shuffled decoders":
            raise ValueError("shuffled decoders are those of an arm without a second phase: leave then out")
        return self

    @property
    def name(self) -> str:
        """The name in tables."""
        after = "" if self.then is None else f", then {self.then}"
        return self.arm.name + after + (f" ({self.control})" if self.control else "")

    @property
    def before(self) -> "SetArm":
        """What is trained before the second phase, or whose transcoders the control takes."""
        control = None if self.control == "shuffled decoders" else self.control
        return SetArm(arm=self.arm, control=control)


WITH_NOTHING, WITH_SKIP = SetArm(arm=NONE), SetArm(arm=SKIP)
