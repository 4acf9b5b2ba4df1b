"""The derivative over a finite step: what a function does on the way from x to x + step v."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import singledispatch
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

from faithfulness_plugin.jacobian.estimators.base import LENGTH, Estimator, Gate
from faithfulness_plugin.jacobian.linear_region import LinearRegion, linear_region
from faithfulness_plugin.layers.derivatives import Layer, bare, mismatch_explained
from faithfulness_plugin.layers.known_layer import KnownLayer
from faithfulness_plugin.layers.probe_shape import each_probe
from faithfulness_plugin.layers.row_differences import MovedRows, RowDifferences

PreActivations = Tensor | MovedRows | None
RowFunction = Callable[[Tensor, PreActivations], Tensor]
"""(rows [..., d_in], their pre-activations [..., d_sae] where they are known) -> t(rows) [..., d_out]."""


@dataclass(frozen=True)
class Secant(Estimator):
    """Mean of ||(t(x + step v) - t(x)) / step - (f(x + step v) - f(x)) / step||^2, or of the central quotients.

    It compares where the gates change, at a finite distance, so that it trains b_enc and thresholds by itself.

    Example:
        >>> x, v = torch.tensor([[1.0]]), torch.tensor([[[1.0]]])
        >>> Secant().layer_products(torch.square, x, v, 0.5)[1]  # (1.5^2 - 1^2) / 0.5, where the derivative is 2
        tensor([[[2.5000]]])
        >>> Secant(central=True).layer_products(torch.square, x, v, 0.5)[1]  # (1.5^2 - 0.5^2) / 1
        tensor([[[2.]]])
    """

    name = "secant"
    finite_step = True

    radius: float = 0.5
    central: bool = False

    @override
    def __post_init__(self) -> None:
        super().__post_init__()
        if self.gate_bandwidth is not None:
            raise ValueError("the secant trains its gates by itself: leave gate_bandwidth out")

    @override
    def step(self, rms: LENGTH) -> LENGTH | float:
        return self.radius * rms if self.isotropic else self.radius  # isotropic probes have coordinates of size 1

    @override
    def layer_products(
        self,
        layer: Layer,
        x: Tensor,
        v: Tensor,
        step: Tensor | float,
        *,
        y: Tensor | None = None,
        along: RowDifferences | None = None,
    ) -> tuple[Tensor, Tensor]:
        if isinstance(layer, KnownLayer):
            return layer.secant(x, v, step, central=self.central, y=y, along=along)
        return layer_secant(layer, x, v, step, central=self.central, y=y)

    @override
    def transcoder_products(
        self,
        transcoder: nn.Module,
        x: Tensor,
        v: Tensor,
        step: Tensor | float,
        *,
        gate: Gate | None = None,
        along: RowDifferences | None = None,
    ) -> Tensor:
        return transcoder_secant(transcoder, x, v, step, central=self.central, gate=gate, along=along)[1]


@torch.no_grad()
def layer_secant(
    layer: Layer,
    x: Float[Tensor, "*batch d_in"],
    v: Float[Tensor, "*probes_batch d_in"],
    step: Float[Tensor, ""] | Float[Tensor, "*batch 1"] | float,
    *,
    central: bool = False,
    y: Float[Tensor, "*batch d_out"] | None = None,
) -> tuple[Float[Tensor, "*batch d_out"], Float[Tensor, "*probes_batch d_out"]]:
    """Compute (f(x), (f(x + step v) - f(x)) / step), or central: (f(x), (f(x + step v) - f(x - step v)) / (2 step)).

    Both tend to (f(x), J_f v) as step goes to 0. It needs no derivative of the layer, and sees its kinks at their true
    weight. No graph is kept.

    Args:
        layer: any callable, row-wise.
        x: the rows.
        v: one probe for each row, of x's shape, or several, with n_probes in front.
        step: the step's length in units of v, one for all rows or one a row.
        central: go from x - step v to x + step v, rather than from x.
        y: f(x), where it is known.

    Returns:
        f(x) [..., d_out] and the quotients [..., d_out], or [n_probes, ..., d_out] for several probes.

    Raises:
        ValueError: v does not fit x; a layer on another device or of another dtype.
    """
    with mismatch_explained(layer, x):
        y = bare(layer)(x) if y is None else y
        return y, _quotient(lambda moved, _: bare(layer)(moved), x, v, step, y, central)  # n_probes more calls


def transcoder_secant(
    transcoder: nn.Module,
    x: Float[Tensor, "*batch d_in"],
    v: Float[Tensor, "*probes_batch d_in"],
    step: Float[Tensor, ""] | Float[Tensor, "*batch 1"] | float,
    *,
    central: bool = False,
    gate: Float[Tensor, "*batch d_sae"] | LinearRegion | None = None,
    along: RowDifferences | None = None,
) -> tuple[Float[Tensor, "*batch d_out"], Float[Tensor, "*probes_batch d_out"]]:
    """Compute t(x) and the same quotient of t as `layer_secant`, with a graph.

    Features that switch on the way count, so that, unlike Jv, it also trains b_enc and thresholds. Where a row's
    features depend on the batch (BatchTopK), the threshold that this batch set at x also holds on the way: see
    `row_function`.

    Args:
        transcoder: the student, any nn.Module.
        x: the rows.
        v: as in `layer_secant`.
        step: the step's length in units of v.
        central: as in `layer_secant`.
        gate: the feature activations at x, or their `linear_region`, for classes that it knows.
        along: which rows of x the probes are differences of, where they are: then the pre-activations at x + step v
            are combinations of those at x, for classes whose region knows them.

    Returns:
        t(x) and the quotients, as `layer_secant`.

    Raises:
        ValueError: v does not fit x; a transcoder on another device or of another dtype.
    """
    region = gate if isinstance(gate, LinearRegion) else linear_region(transcoder, x, gate=gate)
    function = row_function(transcoder, x, region)
    with mismatch_explained(transcoder, x):
        y = function(x, None) if region is None else region.output()
        return y, _quotient(function, x, v, step, y, central, region, along)


@singledispatch
def row_function(transcoder: nn.Module, x: Float[Tensor, "*batch d_in"], region: LinearRegion | None) -> RowFunction:
    """Return the function that the transcoder applies to each row, whatever the other rows are.

    It is the transcoder itself where it is row-wise, computed through its `linear_region` where that is known. A class
    whose rows compete for features registers the function that its batch x, with its region, had settled on.

    Args:
        transcoder: any nn.Module.
        x: the batch on which its features are chosen.
        region: its region there; None for a module without one.

    Returns:
        The function, row-wise, with a graph to the transcoder's parameters.
    """
    if region is None:
        return lambda moved, hidden_pre: bare(transcoder)(moved)
    # encoded again at each point: gates may change on the way
    return lambda moved, hidden_pre: region_there(transcoder, moved, hidden_pre, region).output()


@singledispatch
def region_there(
    transcoder: nn.Module,
    moved: Float[Tensor, "*batch d_in"],
    hidden_pre: Float[Tensor, "*batch d_sae"] | MovedRows | None,
    start: LinearRegion,
) -> LinearRegion:
    """Find the `linear_region` of a class that has one. A class that can start from pre-activations registers how.

    Args:
        transcoder: an instance of a class that `linear_region` knows.
        moved: the rows.
        hidden_pre: their pre-activations, where they are known.
        start: the region from which they moved.

    Returns:
        The region at these rows.
    """
    return cast(LinearRegion, linear_region(transcoder, moved))


def _quotient(
    function: RowFunction,
    x: Tensor,
    v: Tensor,
    step: Tensor | float,
    y: Tensor,
    central: bool,
    region: LinearRegion | None = None,
    along: RowDifferences | None = None,
) -> Tensor:
    def at(signed: Tensor | float) -> Tensor:
        """Compute t(x + signed v) for each probe."""
        points = []
        for n, probe in enumerate(each_probe(x, v)):
            known = None if region is None or along is None else region.moved_pre(along.only(n), signed)
            points.append(function(x + signed * probe, known))
        return torch.stack(points)  # [n_probes, ..., d_out]

    # per unit of v; y [..., d_out] broadcasts
    quotient = (at(step) - (at(-step) if central else y)) / (2 * step if central else step)
    return quotient[0] if v.ndim == x.ndim else quotient  # without n_probes where v had none
