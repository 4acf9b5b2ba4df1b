"""What a transcoder reads, activates and returns on a sample, as its hooks carry it, so that hooks on it show."""

from collections.abc import Iterator
from typing import Any

from jaxtyping import Float
from torch import Tensor
from transformer_lens.hook_points import HookPoint

from faithfulness_plugin.inspection.sample import RowSample
from faithfulness_plugin.layers.spliced import ACTS_POST


def rows_of(sample: RowSample, transcoder: Any) -> Iterator[tuple[slice, Tensor]]:
    """Yield (part, x) of a sample, part by part, as the transcoder takes them."""
    for part in sample.chunks(transcoder.W_dec.shape[0]):
        yield part, sample.x[part].to(device=transcoder.W_dec.device, dtype=transcoder.W_dec.dtype)


def acts_and_output(
    transcoder: Any, x: Float[Tensor, "rows d_in"]
) -> tuple[Float[Tensor, "rows d_sae"], Float[Tensor, "rows d_out"]]:
    """Return the activations and the output at rows x."""
    t, cache = transcoder.run_with_cache(x, names_filter=ACTS_POST)
    return _dense(cache[ACTS_POST]), t


def acts_at(transcoder: Any, x: Float[Tensor, "rows d_in"]) -> Float[Tensor, "rows d_sae"]:
    """Return the activations at rows x; nothing is decoded."""
    seen: list[Tensor] = []

    def look(acts: Tensor, hook: HookPoint) -> None:
        del hook
        seen.append(acts)

    with transcoder.hooks(fwd_hooks=[(ACTS_POST, look)]):
        transcoder.encode(x)
    return _dense(seen[0])


def _dense(acts: Tensor) -> Tensor:
    return acts.to_dense() if acts.is_sparse else acts


def require_fit(transcoder: Any, sample: RowSample) -> None:
    """Raise ValueError for a transcoder of another width than the layer."""
    theirs = (transcoder.W_enc.shape[0], transcoder.W_dec.shape[1])
    if theirs != (sample.x.shape[1], sample.y.shape[1]):
        raise ValueError(
            f"the transcoder maps {theirs[0]} to {theirs[1]} and the layer {sample.x.shape[1]} to {sample.y.shape[1]}: "
            "is it a transcoder of this layer and this model? Name another --layer or --model"
        )
