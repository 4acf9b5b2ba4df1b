"""The interface of estimators: their probes, the layer's products along them, and the transcoder's."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from faithfulness_plugin.jacobian.linear_region import LinearRegion
from faithfulness_plugin.jacobian.probes import ISOTROPIC, PROBES, Probe
from faithfulness_plugin.layers.derivatives import Layer

Gate = Tensor | LinearRegion
"""Feature activations [..., d_sae] of a forward pass already made, or the linear region of one."""
LENGTH = TypeVar("LENGTH", float, Tensor)


@dataclass(frozen=True)
class Estimator(ABC):
    """One way to estimate E_v ||(J_t - J_f) v||^2, a mean over rows and probes of ||t's product - f's product||^2.

    The fields are those of `JacobianMatchingConfig` that the estimator reads (`config.build_estimator()` makes one of a
    config); `__post_init__` refuses values that do not go with it. A subclass with options of its own adds them as
    fields, here and in the config. The class attributes describe the estimator:
    """

    name: ClassVar[str]
    """The name in configs, stores and result files."""
    probes: ClassVar[Mapping[str, Probe]] = PROBES
    """The probes that it takes, by name."""
    pulls_back: ClassVar[bool] = False
    """Probes are directions u of the output, and products J^T u; else directions v of the input, and products J v."""
    fixed_probes: ClassVar[bool] = False
    """Squares are summed over a fixed set of probes; else they are averaged over `n_probes` random ones."""
    finite_step: ClassVar[bool] = False
    """Functions are compared at the ends of a step v; else their derivatives along v."""

    probe: str | Probe = "rademacher"
    n_probes: int = 1
    gate_bandwidth: float | None = None

    def __post_init__(self) -> None:
        if callable(self.probe):
            if self.pulls_back or self.fixed_probes:
                raise ValueError(
                    f'estimator="{self.name}" draws its own directions: name one of {tuple(PROBES)} as probe, or use '
                    'estimator="jvp" or "secant"'
                )
        elif self.probe not in PROBES:
            raise ValueError(f"probe={self.probe!r} is unknown: choose one of {tuple(PROBES)}")

    @property
    def isotropic(self) -> bool:
        """Whether E[v v^T] = I, so that lengths of probes are not those of the data."""
        return self.probe in ISOTROPIC or self.probe in ISOTROPIC.values()

    def draw(self, rows: Float[Tensor, "*batch d"], generator: torch.Generator | None) -> Tensor:
        """Draw the probes that belong to rows.

        Args:
            rows: the inputs x [..., d_in], or f(x) [..., d_out] where it `pulls_back`.
            generator: the source of randomness, on the device of the rows; None for torch's own.

        Returns:
            Probes [n, ..., d], n as `n_products` counts them.
        """
        probe = self.probe if callable(self.probe) else self.probes[self.probe]
        return probe(rows, self.n_probes, generator)

    def n_products(self, d_in: int) -> int:
        """Count the probes of each row.

        Args:
            d_in: the width of the layer's input.

        Returns:
            `n_probes`, or the size of the fixed set.
        """
        del d_in
        return self.n_probes

    @classmethod
    def widths(cls, d_in: int, d_out: int) -> tuple[int, int]:
        """Return the widths of a probe and of a product.

        Args:
            d_in: the width of the layer's input.
            d_out: the width of its output.

        Returns:
            (d_in, d_out), or (d_out, d_in) where it `pulls_back`.
        """
        return (d_out, d_in) if cls.pulls_back else (d_in, d_out)

    def step(self, rms: LENGTH) -> LENGTH | float:
        """Compute the step's length.

        Args:
            rms: the root mean square of the coordinates of the rows.

        Returns:
            The factor of v; 1 for estimators without a `finite_step`.
        """
        del rms
        return 1.0

    @abstractmethod
    def layer_products(
        self,
        layer: Layer,
        x: Float[Tensor, "*batch d_in"],
        v: Float[Tensor, "n_probes *batch d_probe"],
        step: Tensor | float,
        *,
        y: Float[Tensor, "*batch d_out"] | None = None,
    ) -> tuple[Float[Tensor, "*batch d_out"], Float[Tensor, "n_probes *batch d_product"]]:
        """Ask the layer for f(x) and its products along the probes, without a graph.

        Args:
            layer: row-wise, [..., d_in] -> [..., d_out].
            x: the rows.
            v: what `draw` returned.
            step: the step's length, for all rows or [..., 1], for estimators with a `finite_step`.
            y: f(x), where it is known; derivatives bring it by themselves.

        Returns:
            f(x), and one product per probe and row.
        """

    @abstractmethod
    def transcoder_products(
        self,
        transcoder: nn.Module,
        x: Float[Tensor, "*batch d_in"],
        v: Float[Tensor, "n_probes *batch d_probe"],
        step: Tensor | float,
        *,
        gate: Gate | None = None,
    ) -> Float[Tensor, "n_probes *batch d_product"]:
        """Compute the transcoder's products along the probes, with a graph to its parameters.

        In closed form on its `linear_region`, by autograd for a module without one.

        Args:
            transcoder: the student.
            x: the rows.
            v: what `draw` returned.
            step: as in `layer_products`.
            gate: as in `transcoder_jvp`.

        Returns:
            One product per probe and row, with the layer's width.
        """
