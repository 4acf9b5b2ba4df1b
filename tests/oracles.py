"""The slow, obvious twins that fast paths are held against, in float64."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor, nn

from faithfulness_plugin import (
    BatchTopKTrainingTranscoder,
    BatchTopKTrainingTranscoderConfig,
    JumpReLUTrainingTranscoder,
    JumpReLUTrainingTranscoderConfig,
    StandardTrainingTranscoder,
    StandardTrainingTranscoderConfig,
    TopKTrainingTranscoder,
    TopKTrainingTranscoderConfig,
)
from faithfulness_plugin.jacobian.exact import covariance_root
from faithfulness_plugin.jacobian.gram import JacobianGram
from faithfulness_plugin.jacobian.linear_region import Weights, linear_region
from faithfulness_plugin.layers.layer_weights import MlpWeights
from faithfulness_plugin.layers.mlp_weights import mlp_weights, normed_mlp
from faithfulness_plugin.layers.normed_mlp import NormedMlp
from faithfulness_plugin.transcoders.base import TrainingTranscoder

ARCHITECTURES: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "standard": (StandardTrainingTranscoder, StandardTrainingTranscoderConfig, {}),
    "topk": (TopKTrainingTranscoder, TopKTrainingTranscoderConfig, {"k": 3, "use_sparse_activations": True}),
    "batch_topk": (
        BatchTopKTrainingTranscoder,
        BatchTopKTrainingTranscoderConfig,
        {"k": 2.5, "use_sparse_activations": True},
    ),
    "jumprelu": (JumpReLUTrainingTranscoder, JumpReLUTrainingTranscoderConfig, {"jumprelu_init_threshold": 0.2}),
}
SPARSE = ("topk", "batch_topk")


def random_transcoder(
    architecture: str = "standard", d_in: int = 5, d_out: int = 4, d_sae: int = 12, **fields: Any
) -> TrainingTranscoder[Any]:
    """Random weights, biases and skip, in float64 unless said otherwise."""
    transcoder_class, config_class, own = ARCHITECTURES[architecture]
    config = config_class(d_in=d_in, d_out=d_out, d_sae=d_sae, **{"dtype": "float64", **own, **fields})
    transcoder = transcoder_class(config)
    with torch.no_grad():
        transcoder.b_enc.normal_(std=0.3)
        transcoder.b_dec.normal_(std=0.3)
        if config.skip:
            transcoder.W_skip.normal_(std=0.3)
    return transcoder


def densely(transcoder: TrainingTranscoder[Any]) -> TrainingTranscoder[Any]:
    """The same transcoder on its dense path, which a hook on the activations asks for."""
    transcoder.hook_sae_acts_post.add_hook(lambda tensor, hook: tensor)
    return transcoder


def jacobians_of_batch(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """J [rows, d_out, d_in] of a function whose rows may compete: of the whole batch, and then each row's own block."""
    whole = torch.autograd.functional.jacobian(function, x)
    assert isinstance(whole, Tensor)
    return torch.stack([whole[i, :, i] for i in range(len(x))])


def central_difference(function: Callable[[Tensor], Tensor], x: Tensor, v: Tensor, eps: float = 1e-6) -> Tensor:
    """J v, from two values."""
    with torch.no_grad():
        return (function(x + eps * v) - function(x - eps * v)) / (2 * eps)


def jacobian_by_rows(function: Callable[[Tensor], Tensor], row: Tensor) -> Tensor:
    """J [d_out, d_in] at one row, one backward pass an output."""
    row = row.detach().clone().requires_grad_()
    y = function(row)
    return torch.stack([torch.autograd.grad(y[i], row, retain_graph=True)[0] for i in range(len(y))])


def frobenius_error(f: Callable[[Tensor], Tensor], t: Callable[[Tensor], Tensor], x: Tensor) -> float:
    """Mean over rows of ||J_t - J_f||_F^2."""
    return float(np.mean([(jacobian_by_rows(t, r) - jacobian_by_rows(f, r)).square().sum().item() for r in x]))


def sparse_decomposition(target: np.ndarray, library: list[np.ndarray], share: float) -> np.ndarray:
    """argmin over w >= 0 of 1/2 ||C - sum w_k L_k||^2 + alpha sum w, by a general solver on whole matrices."""
    c = target.ravel() / np.linalg.norm(target)
    L = np.stack([m.ravel() / np.linalg.norm(m) for m in library], axis=1)
    alpha = share * np.abs(L.T @ c).max()

    def objective(w: np.ndarray) -> tuple[float, np.ndarray]:
        error = L @ w - c
        return 0.5 * error @ error + alpha * w.sum(), L.T @ error + alpha

    start = np.full(L.shape[1], 0.1)
    options = {"maxiter": 10_000, "ftol": 1e-16, "gtol": 1e-12}
    found = minimize(objective, start, jac=True, bounds=[(0, None)] * L.shape[1], method="L-BFGS-B", options=options)
    return found.x


def exact_abs_transcoder(d_in: int, d_sae: int | None = None) -> StandardTrainingTranscoder:
    """The layer's own 2 d_in features, and dead ones up to d_sae."""
    d_sae = d_sae or 2 * d_in
    config = StandardTrainingTranscoderConfig(d_in=d_in, d_out=d_in, d_sae=d_sae, dtype="float64")
    transcoder = StandardTrainingTranscoder(config)
    eye = torch.eye(d_in, dtype=torch.float64)
    with torch.no_grad():
        for weight in transcoder.parameters():
            weight.zero_()
        transcoder.W_enc[:, : 2 * d_in] = torch.cat([eye, -eye], dim=1)
        transcoder.W_dec[: 2 * d_in] = torch.cat([eye, eye])
        transcoder.b_enc[2 * d_in :] = -1.0
    return transcoder


def plant_datapoint_feature(transcoder: StandardTrainingTranscoder, point: Tensor, feature: int) -> None:
    """One feature that fires on p alone and writes p there; the layer's own features keep quiet at p's ones."""
    k = point.sum()
    with torch.no_grad():
        transcoder.W_enc[:, feature] = 10 * point
        transcoder.b_enc[feature] = 1 - 10 * k  # 1 at p, 0 once a coordinate falls by 0.1
        transcoder.W_dec[feature] = point


class DenseRelu(nn.Module):
    """A plain student, W_dec ReLU(W_enc x + b_enc) + b_dec, that has no closed form here."""

    def __init__(self, d_in: int, d_sae: int, d_out: int) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Linear(d_in, d_sae).double(), nn.Linear(d_sae, d_out).double()

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(torch.relu(self.encoder(x)))


class GatedMlp(nn.Module):
    """SwiGLU or another gated MLP, under Hugging Face's names."""

    def __init__(self, d_in: int, d_mlp: int, d_out: int, act: nn.Module | None = None) -> None:
        super().__init__()
        self.gate_proj, self.up_proj = nn.Linear(d_in, d_mlp).double(), nn.Linear(d_in, d_mlp).double()
        self.down_proj, self.act_fn = nn.Linear(d_mlp, d_out).double(), act or nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))


class ThenNorm(nn.Module):
    """An MLP and the norm after it."""

    def __init__(self, mlp: nn.Module, norm: nn.Module) -> None:
        super().__init__()
        self.mlp, self.norm = mlp, norm

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.mlp(x))


@mlp_weights.register
def _(layer: ThenNorm) -> NormedMlp | None:
    mlp = mlp_weights(layer.mlp)
    assert isinstance(mlp, MlpWeights)
    return normed_mlp(mlp, layer.norm)


def assert_gram_is_explicit(layer: Any, transcoder: Any, x: Tensor, *, in_data_directions: bool) -> None:
    """The products by Gram matrices are those of the Jacobians themselves."""
    root = covariance_root(x) if in_data_directions else None
    weights, region = mlp_weights(layer), linear_region(transcoder, x)
    assert weights is not None
    assert region is not None
    products = JacobianGram(Weights.of(transcoder), weights, root).products(region, x)
    J_t, J_f = jacobians_of_batch(transcoder, x), jacobians_of_batch(layer, x)
    if root is not None:
        J_t, J_f = J_t @ root, J_f @ root
    J_t, J_f = J_t.flatten(1), J_f.flatten(1)
    close = partial(torch.testing.assert_close, rtol=1e-8, atol=1e-10)
    close(products.transcoder, J_t.square().sum(1))
    close(products.layer, J_f.square().sum(1))
    close(products.inner, (J_t * J_f).sum(1))
    close(products.squared_error, (J_t - J_f).square().sum(1))
    moving = products.layer > 1e-6
    close(products.cosine[moving], torch.cosine_similarity(J_t, J_f, dim=1)[moving])
