"""A layer whose weights are known: f and its derivatives from one pass of the input matrices."""

import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from faithfulness_plugin.layers.comparison import same_rows
from faithfulness_plugin.layers.derivatives import Layer, bare, layer_output, mismatch_explained
from faithfulness_plugin.layers.layer_weights import Read
from faithfulness_plugin.layers.mlp_weights import checked_mlp_weights, mlp_weights
from faithfulness_plugin.layers.never_compiled import never_compiled
from faithfulness_plugin.layers.normed_mlp import LayerWeights
from faithfulness_plugin.layers.probe_shape import each_probe
from faithfulness_plugin.layers.row_differences import RowDifferences

FIRST_ROWS, LATER_ROWS = 32, 2


@dataclass(frozen=True)
class KnownLayer:
    """f(x), J_f v and f(x + step v) with two products of the input matrices (one where not gated) and one of the output
    matrix for each result.

    Forward mode takes three times f for f and J_f v. Here directions between rows of the batch (`along`) are not
    multiplied at all, so that f and J_f v take four thirds of f, and other directions twice f.
    """

    layer: Layer
    """The layer itself, which a call runs."""
    weights: LayerWeights

    def __call__(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_out"]:
        return bare(self.layer)(x)

    @torch.no_grad()
    def jvp(
        self,
        x: Float[Tensor, "*batch d_in"],
        v: Float[Tensor, "*probes_batch d_in"],
        along: RowDifferences | None = None,
        y: Float[Tensor, "*batch d_out"] | None = None,
    ) -> tuple[Float[Tensor, "*batch d_out"], Float[Tensor, "*probes_batch d_out"]]:
        """Compute (f(x), J_f(x) v), as `layer_jvp`.

        Args:
            x: where it is differentiated.
            v: one probe a row, of x's shape, or several, with n_probes in front.
            along: which rows of x the probes are differences of, where they are.
            y: f(x), where it is known.

        Returns:
            y [..., d_out] and Jv of v's shape with d_out at the end.

        Raises:
            ValueError: v does not fit x.
        """
        with mismatch_explained(self.layer, x), self._timed(x):
            read = self.weights.read(x)
            y, products = self.weights.push(read, self._directions(read, x, v, along), y)
        return y, products[0] if v.ndim == x.ndim else torch.stack(products)

    @torch.no_grad()
    def secant(
        self,
        x: Float[Tensor, "*batch d_in"],
        v: Float[Tensor, "*probes_batch d_in"],
        step: Tensor | float,
        *,
        central: bool = False,
        y: Float[Tensor, "*batch d_out"] | None = None,
        along: RowDifferences | None = None,
    ) -> tuple[Float[Tensor, "*batch d_out"], Float[Tensor, "*probes_batch d_out"]]:
        """Compute f(x) and the quotients, as `layer_secant`.

        Args:
            x: the rows.
            v: one probe a row, of x's shape, or several, with n_probes in front.
            step: the step's length in units of v.
            central: go from x - step v to x + step v, rather than from x.
            y: f(x), where it is known.
            along: which rows of x the probes are differences of, where they are.

        Returns:
            f(x) and the quotients.

        Raises:
            ValueError: v does not fit x.
        """
        with mismatch_explained(self.layer, x), self._timed(x):
            return self._secant(x, v, step, central, y, along)

    def _secant(
        self, x: Tensor, v: Tensor, step: Tensor | float, central: bool, y: Tensor | None, along: RowDifferences | None
    ) -> tuple[Tensor, Tensor]:
        read = self.weights.read(x)
        y = self.weights.write(read) if y is None else y

        def at(n: int, probe: Tensor, signed: Tensor | float) -> Tensor:
            if along is not None:
                return self.weights.write(tuple(along.only(n).moved(z, signed)[0] for z in read))
            return self.weights.write(self.weights.read(x + signed * probe))

        run = 2 * step if central else step
        quotients = [
            (at(n, probe, step) - (at(n, probe, -step) if central else y)) / run
            for n, probe in enumerate(each_probe(x, v))
        ]
        return y, quotients[0] if v.ndim == x.ndim else torch.stack(quotients)

    def _timed(self, x: Tensor) -> AbstractContextManager[None]:
        """Count the time as the layer's, where the layer counts it."""
        timed: Any = getattr(self.layer, "timed", None)
        return nullcontext() if timed is None else timed(x.device)

    def _directions(self, read: Read, x: Tensor, v: Tensor, along: RowDifferences | None) -> Iterator[Read]:
        """Yield what the input matrices make of each probe."""
        for n, probe in enumerate(each_probe(x, v)):
            if along is None:
                yield self.weights.read_direction(probe.to(x.dtype))
            else:
                yield tuple(along.only(n).of(z)[0] for z in read)


class LayerInUse:
    """Recognises the layer that is asked at every step.

    It reads the weights at every step and checks them against the layer: values and derivatives on the first batch,
    before they are used; values on two rows of every later one, afterwards, by `confirms`. Where they are not all that
    the layer computes, the layer is asked itself, in forward mode.
    """

    def __init__(self) -> None:
        self._layer: Any = None
        self._opaque = False

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), ()  # a copy starts anew: the layer may be a part of a large model

    @never_compiled
    def __call__(self, layer: Layer, x: Float[Tensor, "*batch d_in"]) -> Layer:
        """Return the layer with its weights where they are known.

        Args:
            layer: f, row-wise.
            x: rows on which it is about to be asked.

        Returns:
            A `KnownLayer`, or the layer itself.
        """
        first = layer is not self._layer
        if not x.numel() or (not first and self._opaque):
            return layer
        self._layer = layer
        with mismatch_explained(layer, x):
            rows = x.reshape(-1, x.shape[-1])[:FIRST_ROWS]
            weights = checked_mlp_weights(layer, rows) if first else mlp_weights(layer)
        self._opaque = weights is None
        if weights is None:
            self._say_opaque(layer, "are not known" if first else "are no longer found")
            return layer
        return KnownLayer(layer, weights)

    @never_compiled
    def confirms(self, asked: Layer, x: Float[Tensor, "*batch d_in"], y: Float[Tensor, "*batch d_out"] | None) -> bool:
        """Check what a `KnownLayer` answered: values, on two rows.

        Args:
            asked: what a call returned.
            x: the rows on which it was asked.
            y: its f(x); None where it did not compute that.

        Returns:
            False where its weights no longer give the layer's output: then ask the layer itself.
        """
        if not isinstance(asked, KnownLayer):
            return True
        rows = x.reshape(-1, x.shape[-1])[:LATER_ROWS]
        ours = asked.weights.output(rows) if y is None else y.reshape(-1, y.shape[-1])[:LATER_ROWS]
        self._opaque = not same_rows(ours, layer_output(asked.layer, rows))
        if self._opaque:
            self._say_opaque(asked.layer, "that were found no longer give its output")
        return not self._opaque

    def _say_opaque(self, layer: Layer, found: str) -> None:
        _say_once(
            f"the weights of a {type(layer).__name__} {found}: its derivative is taken in forward mode, which costs "
            "three times the layer, where an MLP that is passed as a module costs less than one and a half"
        )


@cache
def _say_once(message: str) -> None:
    logging.getLogger(__name__).warning(message)
