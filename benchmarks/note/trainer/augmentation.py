"""The control of Jacobian matching: outputs matched at more points."""

from dataclasses import dataclass
from math import inf
from typing import Literal


@dataclass(frozen=True)
class Augmentation:
    """Outputs matched at other points as well, mean ||t(x') - f(x')||^2: values, no derivative."""

    kind: Literal["noise", "interpolation"] = "noise"
    """"noise": x' = x + scale * rms * gaussian, rms of the batch's coordinates. "interpolation": x' = x +
    scale * (another row - x)."""
    coefficient: float = 1.0
    """Weight beside 1 for the outputs at x itself."""
    scale: float = 0.5

    def __post_init__(self) -> None:
        if self.kind not in ("noise", "interpolation"):
            raise ValueError(f"augmentation {self.kind!r} is unknown: choose 'noise' or 'interpolation'")
        for name in ("coefficient", "scale"):
            if not 0 < getattr(self, name) < inf:
                raise ValueError(f"the augmentation's {name}={getattr(self, name)} must be positive and finite")
