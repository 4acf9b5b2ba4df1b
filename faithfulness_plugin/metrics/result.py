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
