"""The layer that a transcoder learns from: set once, called for targets, and no part of the module."""

from copy import deepcopy
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from faithfulness_plugin.jacobian.matching import JacobianMatching
from faithfulness_plugin.jacobian.packed_rows import PackedRows
from faithfulness_plugin.layers.derivatives import Layer, layer_output

T_LEARNER = TypeVar("T_LEARNER", bound="LearnsFromLayer")


class LearnsFromLayer:
    """The part of a training transcoder that holds its layer, next to SAELens's class.

    The layer stays outside the module tree: it is neither trained, nor moved, nor saved.
    """

    cfg: Any
    dtype: torch.dtype
    matching: JacobianMatching

    def set_layer(self: T_LEARNER, layer: Layer | PackedRows | None) -> T_LEARNER:
        """Set the function to be replaced, on the transcoder's device.

        A layer that knows its hooks (`mlp_layer`) also says where the transcoder writes: metadata.hook_name_out. With
        `PackedRows` (the `layer` of stored rows) training is on rows that bring the layer's responses, or on rows x and
        f(x) beside the layer's weights, of which any derivative is asked.

        Args:
            layer: row-wise [batch, d_in] -> [batch, d_out]; the layout of stored rows; or None to take the layer away.

        Returns:
            The transcoder itself.

        Raises:
            TypeError: a layer that is not callable.
            ValueError: rows of other derivatives than the transcoder matches.
        """
        if isinstance(layer, PackedRows):
            self._require_derivatives(layer)
        elif layer is not None and not callable(layer):
            raise TypeError(f"the layer must be callable, not {type(layer).__name__}")
        # past nn.Module.__setattr__, or a layer that is a module would be trained and saved
        object.__setattr__(self, "_layer", layer)
        if (hook_out := getattr(layer, "hook_out", None)) is not None and isinstance(hook_out, str):
            self.cfg.metadata.hook_name_out = hook_out
        return self

    def _require_derivatives(self, rows: PackedRows) -> None:
        """Raise ValueError for rows of other derivatives than are matched; stored weights give any."""
        wanted = self.matching.config.of_layer
        brought = None if rows.product is None else rows.product.of_layer
        if self.cfg.jacobian_coefficient > 0 and rows.known is None and brought != wanted:
            raise ValueError(
                f"the rows bring derivatives for {brought} and the transcoder matches {wanted}: read the rows with "
                "the transcoder's own config (product=transcoder.cfg.jacobian), or from a store with weights=True"
            )

    def __deepcopy__(self: T_LEARNER, memo: dict[int, Any]) -> T_LEARNER:
        """Copy it on the same layer, which may be a part of a large model and is not the transcoder's own."""
        copied = type(self).__new__(type(self))
        memo[id(self)] = copied
        for name, value in vars(self).items():
            object.__setattr__(copied, name, value if name == "_layer" else deepcopy(value, memo))
        return copied

    @property
    def layer(self) -> Layer:
        """The layer being replaced: that of the model, or its stored weights. Raises ValueError where none is set, or
        rows that bring its responses and no weights."""
        layer = self.given_layer
        if not isinstance(layer, PackedRows):
            return layer
        if layer.known is None:
            raise ValueError(
                "the transcoder learns from stored rows, so it has no layer to call: pass the layer to set_layer"
            )
        return layer.known

    @property
    def given_layer(self) -> Layer | PackedRows:
        """The layer, or the layout of rows, as `set_layer` was given it. Raises ValueError where none is set."""
        layer: Layer | PackedRows | None = vars(self)["_layer"]
        if layer is None:
            raise ValueError("no layer is set: call transcoder.set_layer(layer) before training")
        return layer

    @torch.no_grad()
    def target(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_out"]:
        """Compute f(x) in x's dtype (the layer's own), cast to the transcoder's.

        Args:
            x: the rows.

        Returns:
            f(x), without a graph.

        Raises:
            ValueError: no layer is set; as `as_target`.
        """
        return self.as_target(x, layer_output(self.layer, x))

    def as_target(self, x: Float[Tensor, "*batch d_in"], y: Tensor) -> Float[Tensor, "*batch d_out"]:
        """Cast the layer's output to the transcoder's dtype.

        Args:
            x: the rows.
            y: the layer's output there.

        Returns:
            The target.

        Raises:
            ValueError: y is not [..., d_out].
        """
        wanted = (*x.shape[:-1], self.cfg.d_out)
        if tuple(y.shape) != wanted:
            raise ValueError(
                f"the layer returns shape {list(y.shape)} where the transcoder expects {list(wanted)}: "
                f"make the transcoder with d_out={y.shape[-1] if y.ndim else 1}, or check which layer was set"
            )
        return y.to(self.dtype)
