"""How far a transcoder's Jacobian is from its layer's, exactly."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from faithfulness_plugin.jacobian.exact import layer_jacobian, transcoder_jacobian
from faithfulness_plugin.layer import Layer
from faithfulness_plugin.metrics.result import MetricResult, check_same_shape


@dataclass(frozen=True)
class JacobianError(MetricResult):
    """Whole Jacobians compared, averaged over rows."""

    relative_error: float
    """E||J_f - J_t||_F^2 / E||J_f||_F^2, a ratio of means; 1 says that nothing of J_f is there."""
    cosine: float
    """E_x cos(vec J_f, vec J_t) over rows with J_f != 0. Blind to shrinkage: read it with the relative error."""
    relative_error_data: float
    """The same relative error with J C^(1/2) for J, C the rows' covariance: in directions where the data vary."""
    cosine_data: float
    """The same cosine with J C^(1/2)."""
    columns: float
    """Share of the Jacobians' columns that was compared."""


@torch.no_grad()
def jacobian_error(
    transcoder: nn.Module,
    layer: Layer,
    x: Float[Tensor, "batch d_in"],
    *,
    columns: Bool[Tensor, "batch d_in"] | None = None,
) -> JacobianError:
    """Compares whole Jacobians [d_out, d_in] at rows x [batch, d_in], by d_in forward-mode products a side.

    Args:
        columns: [batch, d_in], True for the input coordinates that count; all by default. For y = |x| pass
            `x != 0`: at the kink the layer has no derivative.

    Raises:
        ValueError: fewer than two rows (their covariance gives the data's directions); columns of another shape than
            x; transcoder and layer differ in d_out; the layer's Jacobian is zero on all rows.
    """
    if x.ndim != 2 or len(x) < 2:
        raise ValueError(f"x has shape {list(x.shape)}: pass two rows or more, [batch, d_in]")
    if columns is not None and columns.shape != x.shape:
        raise ValueError(f"columns has shape {list(columns.shape)} and x {list(x.shape)}: pass one flag per entry of x")
    J_f = layer_jacobian(layer, x)
    J_t = transcoder_jacobian(transcoder, x).to(J_f.dtype)
    check_same_shape(J_t, J_f)
    share = 1.0
    if columns is not None:
        J_f, J_t = J_f * columns[:, None], J_t * columns[:, None]
        share = columns.float().mean().item()
    if not J_f.any():
        raise ValueError("the layer's Jacobian is zero on all these rows, so a relative error is undefined there")
    root = _square_root(torch.cov(x.T, correction=0).reshape(x.shape[-1], x.shape[-1]))
    return JacobianError(*_compare(J_f, J_t), *_compare(J_f @ root, J_t @ root), columns=share)


def _compare(J_f: Tensor, J_t: Tensor) -> tuple[float, float]:
    """(relative error, cosine) over rows of matrices."""
    J_f, J_t = J_f.flatten(1), J_t.flatten(1)
    relative = (J_f - J_t).square().sum(-1).mean() / J_f.square().sum(-1).mean()
    moving = J_f.any(-1)
    return relative.item(), torch.cosine_similarity(J_f[moving], J_t[moving], dim=-1).mean().item()


def _square_root(covariance: Tensor) -> Tensor:
    """R with R R^T = covariance."""
    values, vectors = torch.linalg.eigh(covariance)
    return vectors * values.clamp_min(0).sqrt()
