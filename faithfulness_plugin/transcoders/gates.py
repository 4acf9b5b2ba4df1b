"""Gates that a Jacobian term can train."""

from jaxtyping import Float
from torch import Tensor


def straight_through(
    feature_acts: Float[Tensor, "*batch d_sae"],
    z: Float[Tensor, "*batch d_sae"],
    threshold: Tensor,
    bandwidth: float,
) -> Float[Tensor, "*batch d_sae"]:
    """Make gates 1[a > 0] with the gradient of SAELens's `Step`: d/dz = 1/bandwidth where |z - threshold| < bandwidth
    / 2, else 0, and d/dthreshold = -d/dz.

    Args:
        feature_acts: the activations.
        z: what is compared with the threshold.
        threshold: broadcasts against z.
        bandwidth: the width of the interval around the threshold in which the gates have a gradient.

    Returns:
        The gates, 0 or 1.

    Source: S. Rajamanoharan et al., "Jumping Ahead: Improving Reconstruction Fidelity with JumpReLU Sparse
    Autoencoders", 2024.
    """
    ramp = (z - threshold).clamp(-bandwidth / 2, bandwidth / 2) / bandwidth
    return (feature_acts > 0) + (ramp - ramp.detach())
