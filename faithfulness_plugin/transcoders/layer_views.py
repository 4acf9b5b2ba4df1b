"""A cross-layer transcoder as one module for each layer, which a run of a model calls in turn."""

from collections.abc import Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from faithfulness_plugin.errors import UsageError
from faithfulness_plugin.jacobian.dense_region import DenseRegion
from faithfulness_plugin.jacobian.linear_region import LinearRegion, Weights
from faithfulness_plugin.transcoders.cross_layer_function import CrossLayerFunction


class LayerView(nn.Module):
    """Writes layer m's output, sum over l <= m of W_dec_lm a_l, + b_dec_m, from what layer m reads now and the earlier
    layers' features of the same run.

    In a replacement model x_m is what the replaced layers before it have made, and so are the features that it writes
    on: outputs are those of the whole transcoder at what its layers read in that run.

    Args:
        whole: the cross-layer transcoder.
        layer: m.
        acts: the activations of a run so far, which all views share.
    """

    def __init__(self, whole: CrossLayerFunction, layer: int, acts: list[Tensor]) -> None:
        super().__init__()
        # not children: each view would list the weights of all
        self._whole, self.layer, self._acts = (whole,), layer, acts

    @property
    def whole(self) -> CrossLayerFunction:
        """The cross-layer transcoder, which its other views share."""
        return self._whole[0]

    @property
    def _parts(self) -> Any:
        return self.whole.parts

    @property
    def hook_names(self) -> tuple[str | None, str | None]:
        """The hooks of a block that the layer is read and written at, where the transcoder says so."""
        cfg = getattr(self.whole, "cfg", None)
        metadata = self.whole.metadata if cfg is None else cfg.metadata  # pyright: ignore[reportAttributeAccessIssue]
        return metadata["hook_name"], metadata["hook_name_out"]

    @property
    def d_in(self) -> int:
        """The width of what the layer reads."""
        return self.whole.d_in_each

    @property
    def d_out(self) -> int:
        """The width of what the layer writes."""
        return self.whole.d_out_each

    @property
    def W_enc(self) -> Float[Tensor, "d_in d_sae"]:
        """What its own features read."""
        return self._parts[self.layer].W_enc

    @property
    def W_dec(self) -> Float[Tensor, "d_sae d_out"]:
        """What its own features write to its own layer."""
        return self._parts[self.layer].W_dec[:, : self.d_out]

    @property
    def W_dec_later(self) -> Sequence[Float[Tensor, "d_sae d_out"]]:
        """What its own features write to each later layer within the bandwidth, the next one first."""
        return self._parts[self.layer].W_dec.split(self.d_out, dim=1)[1:]

    @property
    def b_dec(self) -> Float[Tensor, " d_out"]:
        """What is added to the layer's output."""
        return self.whole.b_dec.split(self.d_out)[self.layer]

    def own_region(self, x: Float[Tensor, "*batch d_in"]) -> LinearRegion:
        """Find the linear region of what its own features write to its own layer, and b_dec.

        What earlier layers' features write is no part of it: it is no function of x.

        Args:
            x: what the layer reads.

        Returns:
            The region.
        """
        return DenseRegion(x, Weights(self.W_enc, self.W_dec, self.b_dec), self._parts[self.layer].encode(x))

    def forward(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_out"]:
        """Encode x, and decode all features that write to this layer.

        Args:
            x: what the layer reads in this run.

        Returns:
            What is written in the layer's place.

        Raises:
            UsageError: the layers before it were not passed in this run, on rows of the same shape.
        """
        whole, m = self.whole, self.layer
        if m == 0:
            self._acts.clear()  # a run that did not reach the last layer
        if len(self._acts) != m or any(acts.shape[:-1] != x.shape[:-1] for acts in self._acts):
            self._acts.clear()
            raise UsageError(
                f"layer {m} of a cross-layer transcoder is written to by the features of all {m} layers before it: "
                "replace all of its layers in a run, in order"
            )
        self._acts.append(self._parts[m].encode(x))
        d_out, y = self.d_out, self.b_dec
        for source, acts in enumerate(self._acts):
            written = self._parts[source].W_dec[:, (m - source) * d_out : (m - source + 1) * d_out]
            if written.shape[1]:  # within the bandwidth
                y = y + acts @ written
        if m == whole.n_layers - 1:
            self._acts.clear()
        return y.expand(*x.shape[:-1], d_out)


def layer_views(transcoder: CrossLayerFunction) -> list[LayerView]:
    """Cut a cross-layer transcoder into one module for each layer, for `ReplacementModel`.

    Args:
        transcoder: cross-layer, in `eval` mode.

    Returns:
        Modules [..., d_in] -> [..., d_out], which are called in the order of the layers, all of them in each run.

    Example:
        >>> import torch
        >>> from faithfulness_plugin import CrossLayerTrainingTranscoder, CrossLayerTrainingTranscoderConfig
        >>> from faithfulness_plugin import StandardTrainingTranscoderConfig
        >>> each = StandardTrainingTranscoderConfig(d_in=3, d_sae=8)
        >>> clt = CrossLayerTrainingTranscoder(CrossLayerTrainingTranscoderConfig(n_layers=2, per_layer=each)).eval()
        >>> first, second = layer_views(clt)
        >>> x = torch.randn(5, 6)
        >>> torch.testing.assert_close(torch.cat([first(x[:, :3]), second(x[:, 3:])], dim=-1), clt(x))
    """
    acts: list[Tensor] = []
    return [LayerView(transcoder, layer, acts) for layer in range(transcoder.n_layers)]
