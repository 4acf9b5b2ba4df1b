"""How much of the output a skip connection carries beside the features."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from faithfulness_plugin.metrics.result import MetricResult


@dataclass(frozen=True)
class SkipShare(MetricResult):
    """What a skip connection carries."""

    carried: float
    """The part of the layer's output that it explains. Negative where it writes against the layer."""
    of_output: float
    """Its energy as a part of the transcoder's output energy. With the features' it sums to 1 only where the two are
    not correlated."""


def skip_share(
    skip: Float[np.ndarray, "rows d"], output: Float[np.ndarray, "rows d"], layer: Float[np.ndarray, "rows d"]
) -> SkipShare:
    """Compute what a skip connection carries of the output, variances throughout.

        carried   = E <s - E s, f - E f> / E ||f - E f||^2
        of_output = E ||s - E s||^2 / E ||t - E t||^2

    Args:
        skip: s = W_skip x.
        output: t, the transcoder's output, the skip connection included.
        layer: f, the layer's.

    Returns:
        Both.

    Raises:
        ValueError: a layer or a transcoder whose output is the same on all rows.

        >>> s = np.array([[1.0], [-1.0]])
        >>> skip_share(s, 2 * s, 4 * s)
        SkipShare(carried=0.25, of_output=0.25)
    """
    s, t, f = (of - of.mean(0, dtype=np.float64).astype(of.dtype) for of in (skip, output, layer))
    of_skip, of_transcoder, of_layer = ((of**2).sum(dtype=np.float64) for of in (s, t, f))
    if of_layer == 0 or of_transcoder == 0:
        raise ValueError("the output is the same on all rows: shares of its variance are undefined, pass other rows")
    return SkipShare(float((s * f).sum(dtype=np.float64) / of_layer), float(of_skip / of_transcoder))
