"""Gates that a Jacobian term can train."""

from jaxtyping import Float
from torch import Tensor


def straight_through(
    feature_acts: Float[Tensor, "*batch d_sae"],
    z: Float[Tensor, "*batch d_sae"],
    threshold: Tensor,
    bandwidth: float,
) -> Float[Tensor, "*batch d_sae"]:
    """Make gates 1[a > 0] with the gradient of SAELens's `Step`.

    It is d/dz = 1/bandwidth where |z - threshold| < bandwidth / 2, else 0, and d/dthreshold = -d/dz.

    Args:
        feature_acts: the activations a.
        z: what is compared with the threshold.
        threshold: broadcasts against z.
        bandwidth: the width of the smoothed step, in units of z.

    Returns:
        The gates, 0 or 1.

    Source: S. Rajamanoharan et al., "Jumping Ahead: Improving Reconstruction Fidelity with JumpReLU Sparse
    Autoencoders", 2024.

    Example:
        >>> import torch
        >>> z = torch.tensor([[0.9, 1.2, 3.0]], requires_grad=True)
        >>> gate = straight_through(z * (z > 1), z, torch.ones(3), bandwidth=0.5)
        >>> gate.detach()
        tensor([[0., 1., 1.]])
        >>> gate.sum().backward()
        >>> z.grad  # 1 / 0.5 within 0.25 of the threshold
        tensor([[2., 2., 0.]])
    """
    ramp = (z - threshold).clamp(-bandwidth / 2, bandwidth / 2) / bandwidth
    return (feature_acts > 0) + (ramp - ramp.detach())  # 1[a > 0], with the gradient of the ramp
