"""The layer's weights beside its rows: a file of tensors and a name for the activation, no code."""

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor

from faithfulness_plugin.jacobian.probes import pair_rows
from faithfulness_plugin.layers.activations import ACTIVATIONS, activation_name, called
from faithfulness_plugin.layers.comparison import same_rows
from faithfulness_plugin.layers.derivatives import Layer
from faithfulness_plugin.layers.layer_weights import MlpWeights
from faithfulness_plugin.layers.mlp_weights import checked_mlp_weights
from faithfulness_plugin.layers.normed_mlp import LayerWeights, NormedMlp
from faithfulness_plugin.layers.stored_layer import StoredLayer
from faithfulness_plugin.store.index import DTYPES, LayerFile, Norm, RoundingError, StoreError
from faithfulness_plugin.store.layer_tensors import CHUNK
from faithfulness_plugin.store.shard_file import write_tensors

LAYER_FILENAME = "layer.safetensors"
SAMPLE = 256
"""Rows whose derivatives are looked at while a store is filled."""
NORM = "norm."
"""The beginning of the names of a norm's tensors."""
INSTEAD = "keep its derivatives (weights=False with products; in settings: stores: {keep: derivatives})"


def keep_layer(
    folder: Path, layer: Layer, x: Float[Tensor, "rows d_in"], y: Float[Tensor, "rows d_out"], dtype: str
) -> dict[str, Any]:
    """Write the weights of a layer whose rows are kept, and measure what rounding the rows does.

    Args:
        folder: the store's.
        layer: f, row-wise.
        x: the rows of the first shard.
        y: its outputs there.
        dtype: that of the store.

    Returns:
        What changes in the index.

    Raises:
        StoreError: as `weights_to_keep` and `write_layer`.
    """
    weights, activation = weights_to_keep(layer, x, y)
    rounding = rounding_error(weights, x, y, dtype)
    return {"layer": write_layer(folder, weights, activation), "rounding": rounding}


def weights_to_keep(
    layer: Layer, x: Float[Tensor, "rows d_in"], y: Float[Tensor, "rows d_out"]
) -> tuple[LayerWeights, str]:
    """Find the weights of a layer that are all that it computes.

    Args:
        layer: f, row-wise.
        x: rows on which it is used.
        y: its outputs there.

    Returns:
        The weights with a known activation in the place of the layer's own, and its name.

    Raises:
        StoreError: an opaque layer, or one whose activation has no name.
    """
    weights = checked_mlp_weights(layer, some(x))
    if weights is None:
        raise StoreError(
            f"the weights of a {type(layer).__name__} are not known, or not all that it computes, so rows alone are "
            f"not enough: {INSTEAD}"
        )
    mlp = weights.mlp if isinstance(weights, NormedMlp) else weights
    if (name := activation_name(mlp.act)) is None:
        raise StoreError(
            f"the layer's activation {called(mlp.act)} is none of those that a file can name "
            f"({', '.join(ACTIVATIONS)}): {INSTEAD}"
        )
    mlp = mlp._replace(act=ACTIVATIONS[name])
    weights = weights._replace(mlp=mlp) if isinstance(weights, NormedMlp) else mlp
    require_reproduced(weights, x, y, f"the weights that were found in a {type(layer).__name__}; {INSTEAD}")
    return weights, name


@torch.no_grad()
def require_reproduced(
    weights: LayerWeights, x: Float[Tensor, "rows d_in"], y: Float[Tensor, "rows d_out"], whose: str
) -> None:
    """Check that weights give f(x), up to the rounding of the weights or of the rows, whichever is coarser.

    Args:
        weights: a layer's.
        x: the rows, in any dtype.
        y: the layer's outputs there.
        whose: names the weights in the message, and says what to do.

    Raises:
        StoreError: they do not.
    """
    dtype = weights.W_in.dtype
    found = torch.cat([weights.output(rows.to(dtype)) for rows in x.split(CHUNK)])
    coarser = max((y.dtype, dtype), key=lambda of: torch.finfo(of).eps)
    if not same_rows(found, y.to(coarser)):
        raise StoreError(f"f(x) is not what its weights give: {whose}")


def write_layer(folder: Path, weights: LayerWeights, activation: str) -> LayerFile:
    """Write the file of weights whole, or not at all.

    Args:
        folder: the store's.
        weights: what `weights_to_keep` returned.
        activation: the activation's name.

    Returns:
        Its entry in the index.

    Raises:
        StoreError: the disk is full, or cannot be written.
    """
    mlp, norm = weights, None
    tensors: dict[str, Tensor] = {}
    if isinstance(weights, NormedMlp):
        mlp, norm = weights.mlp, Norm(eps=weights.eps, centred=weights.centred)
        tensors = {f"{NORM}scale": weights.scale, f"{NORM}shift": weights.shift}
    tensors |= {name: part for name, part in mlp._asdict().items() if isinstance(part, Tensor)}
    # parts of one tensor, such as a fused gate's halves, become tensors of their own
    tensors = {name: part.detach().to("cpu", copy=True).contiguous() for name, part in tensors.items()}
    left = f"they need {sum(part.nbytes for part in tensors.values()) / 1e6:,.0f} MB"
    written = write_tensors(folder / LAYER_FILENAME, tensors, "the layer's weights", left)
    return LayerFile(activation=activation, norm=norm, **written)


def read_layer(folder: Path, entry: LayerFile, dtype: str) -> StoredLayer:
    """Read the layer from a file that was found whole.

    Args:
        folder: the store's.
        entry: the file's entry in the index.
        dtype: that of the rows.

    Returns:
        f, row-wise, on the CPU; exact where the rows' dtype holds what the layer's does.
    """
    tensors = load_file(folder / entry.file)
    norm = {name.removeprefix(NORM): tensors.pop(name) for name in list(tensors) if name.startswith(NORM)}
    mlp = MlpWeights(act=ACTIVATIONS[entry.activation], **tensors)
    weights: LayerWeights = mlp
    if entry.norm is not None:
        weights = NormedMlp(mlp, eps=entry.norm.eps, centred=entry.norm.centred, **norm)
    kept = DTYPES[dtype]
    return StoredLayer(weights, exact=torch.promote_types(kept, mlp.W_in.dtype) == kept)


@torch.no_grad()
def rounding_error(
    weights: LayerWeights, x: Float[Tensor, "rows d_in"], y: Float[Tensor, "rows d_out"], dtype: str
) -> RoundingError:
    """Measure what keeping rows in a dtype does to x, to f(x) and to derivatives along pairs of rows.

    Args:
        weights: the layer's.
        x: the rows as the layer was given them.
        y: its outputs there.
        dtype: that of the store.

    Returns:
        The errors relative to the exact numbers, over some of the rows; 0 where the dtype holds them all.
    """
    x, y = some(x), some(y)
    along = pair_rows(x, 1, torch.Generator(x.device).manual_seed(0))

    def moves(rows: Tensor) -> Tensor:
        return weights.jacobian(rows).jvp(along.of(rows)[0])  # [rows, d_out]

    rounded_x, rounded_y = (part.to(DTYPES[dtype]).to(part.dtype) for part in (x, y))
    pairs = [(rounded_x, x), (rounded_y, y), (moves(rounded_x), moves(x))]
    errors = [_relative(rounded, exact) for rounded, exact in pairs]
    return RoundingError(rows=len(x), x=errors[0], y=errors[1], Jv=errors[2])


def some(rows: Float[Tensor, "rows d"]) -> Float[Tensor, "fewer d"]:
    """Choose a few rows, evenly spread.

    Args:
        rows: all of them.

    Returns:
        `SAMPLE` of them, or all where there are fewer.
    """
    return rows[torch.linspace(0, len(rows) - 1, min(SAMPLE, len(rows))).long()]


def _relative(rounded: Tensor, exact: Tensor) -> float:
    size = exact.double().norm().item()
    return (rounded.double() - exact.double()).norm().item() / size if size else 0.0
