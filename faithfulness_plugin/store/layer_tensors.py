"""The tensors of one shard: rows, the layer's outputs and its derivatives there."""

from collections.abc import Mapping
from math import isfinite

import torch
from jaxtyping import Float
from torch import Tensor

from faithfulness_plugin.layers.derivatives import Layer, layer_output
from faithfulness_plugin.seeds import derived_seed
from faithfulness_plugin.store.index import DTYPES, Index, StoreError

CHUNK = 1024  # rows that the layer is asked about at a time


@torch.no_grad()
def layer_tensors(
    index: Index, number: int, x: Float[Tensor, "rows d_in"], layer: Layer, rms: float
) -> dict[str, Tensor]:
    """Ask the layer for f(x) and its derivatives at rows x.

    Args:
        index: the store's, which says what is kept and seeds the probes.
        number: the shard's number, by which its probes are seeded.
        x: the rows.
        layer: f, row-wise.
        rms: the root mean square of the coordinates of the store's first shard: the unit of isotropic secants.

    Returns:
        "x" and "y" [rows, d], and probes and products [rows, n_probes, d] by their names in the index, as the layer
        gave them.

    Raises:
        StoreError: the rows or the layer's output have another shape than the store.
    """
    if x.ndim != 2 or x.shape[-1] != index.d_in or len(x) < 2:
        raise StoreError(f"shard {number}: rows of shape {list(x.shape)}; pass two or more, {index.d_in} wide")
    y = torch.cat([layer_output(layer, rows) for rows in x.split(CHUNK)])
    if y.shape != (len(x), index.d_out):
        raise StoreError(f"the layer puts out shape {list(y.shape)}, not [{len(x)}, {index.d_out}]")
    tensors: dict[str, Tensor] = {"x": x, "y": y}
    for product in index.products:
        estimator = product.config.build_estimator()
        if product.v_name not in tensors:  # products along the same probes share them
            seed = derived_seed(index.seed, f"{product.v_name}, shard {number}")
            generator = torch.Generator(x.device).manual_seed(seed)
            # [n_probes, rows, d] to [rows, n_probes, d], so that a row's probes are together
            tensors[product.v_name] = estimator.draw(y if estimator.pulls_back else x, generator).movedim(0, 1)
        chunks = zip(x.split(CHUNK), tensors[product.v_name].split(CHUNK), strict=True)
        step = estimator.step(rms)
        # v [rows, n_probes, d] back to [n_probes, rows, d], as estimators take it
        products = [estimator.layer_products(layer, rows, v.movedim(1, 0), step)[1] for rows, v in chunks]
        tensors[product.Jv_name] = torch.cat(products, dim=1).movedim(0, 1)
    return tensors


def as_kept(tensors: Mapping[str, Tensor], number: int, dtype: str) -> dict[str, Tensor]:
    """Round tensors to a store's dtype.

    Args:
        tensors: what `layer_tensors` returned.
        number: the shard's number, for the message.
        dtype: the store's.

    Returns:
        The tensors in that dtype, on the CPU.

    Raises:
        StoreError: NaN or Inf, or numbers beyond the range of the dtype.
    """
    kept = {name: tensor.to("cpu", DTYPES[dtype]).contiguous() for name, tensor in tensors.items()}
    culprit = next((name for name, tensor in kept.items() if not torch.isfinite(tensor).all()), None)
    if culprit is None:
        return kept
    why, largest = "check the layer and dtype", tensors[culprit].abs().max().item()
    if isfinite(largest):
        why = f"up to {largest:.3g}, where {dtype} ends at {torch.finfo(DTYPES[dtype]).max:.3g}: use another dtype"
        why += ", such as bfloat16 with float32's range" if dtype == "float16" else ""
    raise StoreError(f"shard {number}: NaN or Inf in {culprit} (as {dtype}): {why}")
