"""What every metric returns."""

from dataclasses import dataclass, fields
from typing import Any, Protocol, runtime_checkable

import numpy as np
from torch import Tensor


@dataclass(frozen=True)
class MetricResult:
    """A frozen record of named numbers; subclasses add the fields."""

    def to_dict(self) -> dict[str, Any]:
        """The fields, arrays as nested lists: ready for JSON."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in values.items()}


@runtime_checkable
class Transcoder(Protocol):
    """What a metric asks of a transcoder: SAELens's names."""

    W_dec: Any  # nn.Parameter [d_sae, d_out]

    def encode(self, x: Tensor) -> Tensor: ...
    def decode(self, feature_acts: Tensor) -> Tensor: ...


def check_same_shape(transcoder_output: Tensor, layer_output: Tensor) -> None:
    """Raises ValueError unless transcoder and layer return the same shape (broadcasting would hide it)."""
    if transcoder_output.shape != layer_output.shape:
        raise ValueError(
            f"the transcoder returns shape {list(transcoder_output.shape)} and the layer {list(layer_output.shape)}: "
            "compare a transcoder with the layer it replaces, on rows [batch, d_in]"
        )
