"""The Jacobians' spectra, and the error where the layer's own is large."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from faithfulness_plugin.display import short_repr
from faithfulness_plugin.jacobian.exact import layer_jacobian, transcoder_jacobian
from faithfulness_plugin.layers.derivatives import Layer
from faithfulness_plugin.metrics.result import MetricResult, relative_error


@dataclass(frozen=True)
class JacobianSpectrum(MetricResult):
    """Means over rows."""

    layer: tuple[float, ...]
    """Singular values of J_f, the largest first."""
    transcoder: tuple[float, ...]
    """Singular values of J_t."""
    rank: float
    """Singular values of J_t above 1 % of the layer's largest; at most the L0 (without skip connection)."""
    relative_error: float
    """E||J_t - J_f||_F^2 / E||J_f||_F^2."""
    top: tuple[int, ...]
    """k."""
    top_error: tuple[float, ...]
    """E||P (J_t - J_f) Q||_F^2 / E||P J_f Q||_F^2, P and Q the projections on J_f's first k left and right singular
    vectors at each row: the error that counts where the tail of the spectrum is no mechanism."""


@torch.no_grad()
def jacobian_spectrum(
    transcoder: nn.Module, layer: Layer, x: Float[Tensor, "rows d_in"], top: Sequence[int] = (1, 2, 4, 8)
) -> JacobianSpectrum:
    """Compare the singular values of both Jacobians, and the error inside the layer's top-k singular subspaces.

    top_error(k) = E||P (J_t - J_f) Q||_F^2 / E||P J_f Q||_F^2, with P and Q the projections on J_f's first k left and
    right singular vectors at each row. Whole Jacobians are built at all rows: use small widths or few rows.

    Args:
        transcoder: any module on rows.
        layer: the function that it replaces.
        x: rows of the layer's input.
        top: k, each from 1 to min(d_in, d_out).

    Returns:
        Mean singular values, the effective rank of J_t, the relative error and the errors at each k.

    Raises:
        ValueError: a k outside 1 to min(d_in, d_out); the layer's Jacobian is zero on all rows.

    Source: C. Olah, "A Toy Model of Mechanistic (Un)Faithfulness", 2025, on superposition.

    The Jacobian of |x| is a diagonal of signs, so that all its singular values are 1:

        >>> import torch
        >>> from faithfulness_plugin.toy.abs_network import AbsNetwork
        >>> from faithfulness_plugin.toy.exact_transcoder import exact_transcoder
        >>> layer, x = AbsNetwork(3), torch.randn(8, 3, generator=torch.Generator().manual_seed(0))
        >>> found = jacobian_spectrum(exact_transcoder(layer), layer, x, top=(1,))
        >>> found.layer, found.rank, found.top_error
        ((1.0, 1.0, 1.0), 3.0, (0.0,))
    """
    J_t = transcoder_jacobian(transcoder, x)
    of = layer_spectrum(layer, x, J_t.dtype)
    J_t = J_t.to(of.J_f)
    of_transcoder = torch.linalg.svdvals(J_t)
    return JacobianSpectrum(
        layer=tuple(of.values.mean(0).tolist()),
        transcoder=tuple(of_transcoder.mean(0).tolist()),
        rank=(of_transcoder > 0.01 * of.values[:, :1]).sum(-1).double().mean().item(),
        relative_error=relative_error(J_t, of.J_f),
        top=tuple(top),
        top_error=of.top_error(J_t, top),
    )


@dataclass(frozen=True, eq=False)
class LayerSpectrum:
    """J_f = U diag(values) Vt at each row: one decomposition serves all transcoders of the layer."""

    J_f: Float[Tensor, "rows d_out d_in"]
    U: Float[Tensor, "rows d_out r"]
    values: Float[Tensor, "rows r"]
    """Singular values, the largest first; r = min(d_in, d_out)."""
    Vt: Float[Tensor, "rows r d_in"]

    __repr__ = short_repr

    def top_error(self, J_t: Float[Tensor, "rows d_out d_in"], top: Sequence[int]) -> tuple[float, ...]:
        """Compute the error inside J_f's first singular directions.

        Args:
            J_t: the transcoder's Jacobians at the same rows (`transcoder_jacobian`).
            top: k, each from 1 to min(d_in, d_out).

        Returns:
            E||P (J_t - J_f) Q||_F^2 / E||P J_f Q||_F^2 at each k.

        Raises:
            ValueError: a k outside 1 to min(d_in, d_out).
        """
        if not all(1 <= k <= self.values.shape[1] for k in top):
            raise ValueError(f"top={tuple(top)}: choose ranks from 1 to {self.values.shape[1]}")
        # the error in J_f's singular bases, [rows, r, r]: its first k rows and columns are P (J_t - J_f) Q
        inside = (self.U.mT @ (J_t.to(self.J_f) - self.J_f) @ self.Vt.mT).square()
        # ||P J_f Q||_F^2 is the sum of the first k squared singular values
        return tuple((inside[:, :k, :k].sum() / self.values[:, :k].square().sum()).item() for k in top)


@torch.no_grad()
def layer_spectrum(layer: Layer, x: Float[Tensor, "rows d_in"], dtype: torch.dtype = torch.float32) -> LayerSpectrum:
    """Decompose the layer's Jacobian at each row.

    Args:
        layer: the layer.
        x: rows of its input.
        dtype: computed in this one at least, and in single precision at least.

    Returns:
        The Jacobians and their singular values and vectors.

    Raises:
        ValueError: the layer's Jacobian is zero on all rows.
    """
    J_f = layer_jacobian(layer, x)
    J_f = J_f.to(torch.promote_types(torch.promote_types(J_f.dtype, dtype), torch.float32))  # for singular values
    if not J_f.any():
        raise ValueError("the layer's Jacobian is zero on all these rows: pass others")
    return LayerSpectrum(J_f, *torch.linalg.svd(J_f, full_matrices=False))
