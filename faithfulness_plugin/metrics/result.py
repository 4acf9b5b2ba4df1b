"""What metrics share: their results, what they ask of a transcoder, relative errors and cosines."""

from dataclasses import dataclass, fields
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class MetricResult:
    """A frozen record of named numbers; subclasses add the fields."""

    def to_dict(self) -> dict[str, Any]:
        """Return the fields, arrays as nested lists: ready for JSON."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in values.items()}


@runtime_checkable
class Transcoder(Protocol):
    """What a metric asks of a transcoder: SAELens's names."""

    W_dec: Any  # nn.Parameter [d_sae, d_out]

    def encode(self, x: Tensor) -> Tensor: ...
    def decode(self, feature_acts: Tensor) -> Tensor: ...


def check_same_shape(transcoder_output: Tensor, layer_output: Tensor) -> None:
    """Raise ValueError unless transcoder and layer return the same shape (broadcasting would hide it)."""
    if transcoder_output.shape != layer_output.shape:
        raise ValueError(
            f"the transcoder returns shape {list(transcoder_output.shape)} and the layer {list(layer_output.shape)}: "
            "compare a transcoder with the layer it replaces, on rows [batch, d_in]"
        )


def relative_error(t: Float[Tensor, "*shape"], f: Float[Tensor, "*shape"]) -> float:
    """Return sum ||t - f||^2 / sum ||f||^2, a ratio of means over rows: 1 says that nothing of f is there."""
    return ((t - f).square().sum() / f.square().sum()).item()


def mean_cosine(cosine: Float[Tensor, " rows"], layer: Float[Tensor, " rows"]) -> float:
    """Average cosines over the rows where the layer moves (its squared norm is above 0)."""
    return cosine[layer > 0].mean().item()


def cosines(t: Float[Tensor, "rows d"], f: Float[Tensor, "rows d"]) -> Float[Tensor, " rows"]:
    """Return cos(t, f) row by row, 0 where either is 0."""
    norms = t.norm(dim=-1) * f.norm(dim=-1)
    return torch.where(norms > 0, (t * f).sum(-1) / norms, torch.zeros_like(norms))
