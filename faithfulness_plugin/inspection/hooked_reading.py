"""What a transcoder reads, activates and returns on a sample, as its hooks carry it, so that hooks on it show."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from jaxtyping import Float
from torch import Tensor
from transformer_lens.hook_points import HookPoint

from faithfulness_plugin.errors import UsageError
from faithfulness_plugin.inspection.sample import RowSample
from faithfulness_plugin.layers.spliced import ACTS_POST

if TYPE_CHECKING:  # at run time a type is no reason to load SAELens
    from sae_lens import SAE


def rows_of(sample: RowSample, transcoder: "SAE[Any]") -> Iterator[tuple[slice, Tensor]]:
    """Iterate over a sample, part by part, on the transcoder's device and in its dtype.

    Args:
        sample: the rows to read.
        transcoder: decides how many rows fit in memory at a time.

    Yields:
        Which rows of the sample these are, and x at them.
    """
    for part in sample.chunks(transcoder.W_dec.shape[0]):
        yield part, sample.x[part].to(device=transcoder.W_dec.device, dtype=transcoder.W_dec.dtype)


def acts_and_output(
    transcoder: "SAE[Any]", x: Float[Tensor, "rows d_in"]
) -> tuple[Float[Tensor, "rows d_sae"], Float[Tensor, "rows d_out"]]:
    """Run a transcoder at rows x.

    Args:
        transcoder: with SAELens's hooks.
        x: rows of the layer's input.

    Returns:
        The activations that `hook_sae_acts_post` carries, and the output.
    """
    t, cache = transcoder.run_with_cache(x, names_filter=ACTS_POST)
    return _dense(cache[ACTS_POST]), t


def acts_at(transcoder: "SAE[Any]", x: Float[Tensor, "rows d_in"]) -> Float[Tensor, "rows d_sae"]:
    """Encode rows x, and decode nothing.

    Args:
        transcoder: with SAELens's hooks.
        x: rows of the layer's input.

    Returns:
        The activations that `hook_sae_acts_post` carries.
    """
    seen: list[Tensor] = []

    def look(acts: Tensor, hook: HookPoint) -> None:
        del hook
        seen.append(acts)

    with transcoder.hooks(fwd_hooks=[(ACTS_POST, look)]):
        transcoder.encode(x)
    return _dense(seen[0])


def _dense(acts: Tensor) -> Tensor:
    return acts.to_dense() if acts.is_sparse else acts


def require_fit(transcoder: "SAE[Any]", sample: RowSample) -> None:
    """Refuse a transcoder of another width than the layer.

    Args:
        transcoder: the one to inspect.
        sample: rows of the layer.

    Raises:
        UsageError: d_in or d_out differ.
    """
    theirs = (transcoder.W_enc.shape[0], transcoder.W_dec.shape[1])
    if theirs != (sample.x.shape[1], sample.y.shape[1]):
        raise UsageError(
            f"the transcoder maps {theirs[0]} to {theirs[1]} and the layer {sample.x.shape[1]} to {sample.y.shape[1]}: "
            "is it a transcoder of this layer and this model? Name another --layer or --model"
        )
