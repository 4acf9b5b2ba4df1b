"""The ways to make one training step, each a function without arguments.

A step is `training_forward_pass` and its backward pass. The layer's part (f(x) and J_f v) is computed beforehand for
every arm alike, and is an arm of its own.
"""

from collections.abc import Callable
from typing import Any

import torch
from sae_lens import StandardTrainingSAE, StandardTrainingSAEConfig, TopKTrainingSAE, TopKTrainingSAEConfig
from sae_lens.saes.sae import TrainingSAE, TrainStepInput
from torch import Tensor, nn

from faithfulness_plugin.benchmarks.timing.speed.schema import Size
from faithfulness_plugin.jacobian.gram import JacobianGram
from faithfulness_plugin.jacobian.layer_response import LayerResponse
from faithfulness_plugin.jacobian.linear_region import Weights, linear_region
from faithfulness_plugin.jacobian.matching import JacobianMatching
from faithfulness_plugin.layers.derivatives import Layer, double_vjp, forward_jvp, layer_jvp
from faithfulness_plugin.layers.mlp_weights import mlp_weights
from faithfulness_plugin.transcoders.base import TrainingTranscoder
from faithfulness_plugin.transcoders.batch_topk import BatchTopKTrainingTranscoder, BatchTopKTrainingTranscoderConfig
from faithfulness_plugin.transcoders.standard import StandardTrainingTranscoder, StandardTrainingTranscoderConfig
from faithfulness_plugin.transcoders.topk import TopKTrainingTranscoder, TopKTrainingTranscoderConfig

Arm = Callable[[], Any]

SLOW = ("topk, a pass per coordinate", "exact cosine by vmap(jacrev)")
MEMORY_ARMS = ("topk", "topk matched", "standard", "standard matched", "SAELens topk", "SAELens topk sparse")


class SwiGLU(nn.Module):
    """A gated MLP under Hugging Face's names, as language models have it."""

    def __init__(self, d: int, d_mlp: int) -> None:
        super().__init__()
        self.gate_proj, self.up_proj = nn.Linear(d, d_mlp, bias=False), nn.Linear(d, d_mlp, bias=False)
        self.down_proj, self.act_fn = nn.Linear(d_mlp, d, bias=False), nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))


class KnownTargets(JacobianMatching):
    """Matching against targets that are there already."""

    def __init__(self, known: LayerResponse) -> None:
        super().__init__()
        self._known = known

    def targets(self, layer: Layer, x: Tensor, *, y: Tensor | None = None) -> LayerResponse:
        """The known ones, at x itself."""
        return self._known._replace(x=x)


def arms(size: Size, device: str, seed: int, *, coordinates: int, rows: int, only: str | None = None) -> dict[str, Arm]:
    """Every arm of this size by name, or only one."""
    torch.manual_seed(seed)
    layer = SwiGLU(size.d, size.d_mlp).to(device)
    x = torch.randn(size.batch, size.d, device=device)
    known = JacobianMatching(seed=seed).targets(layer, x)
    y = layer(x).detach()
    common = {"d_in": size.d, "d_sae": size.d_sae, "device": device}

    def ours(transcoder_class: Any, config_class: Any, **fields: Any) -> Callable[[bool], Arm]:
        def make(matched: bool) -> Arm:
            config = config_class(**common, **fields, jacobian_coefficient=float(matched))
            transcoder: TrainingTranscoder[Any] = transcoder_class(config).set_layer(lambda _: y)
            transcoder.matching = KnownTargets(known)
            return _step(transcoder, x)

        return make

    def theirs(sae_class: Any, config_class: Any, **fields: Any) -> Arm:
        return _step(sae_class(config_class(**common, **fields)), x)

    topk = ours(TopKTrainingTranscoder, TopKTrainingTranscoderConfig, k=size.k)
    batch_topk = ours(BatchTopKTrainingTranscoder, BatchTopKTrainingTranscoderConfig, k=float(size.k))
    standard = ours(StandardTrainingTranscoder, StandardTrainingTranscoderConfig)

    def other() -> TopKTrainingTranscoder:
        return TopKTrainingTranscoder(TopKTrainingTranscoderConfig(**common, k=size.k))

    factories: dict[str, Callable[[], Arm]] = {
        "layer": lambda: lambda: layer(x),
        "layer's Jv": lambda: lambda: layer_jvp(layer, x, known.v[0]),
        "topk": lambda: topk(False),
        "topk matched": lambda: topk(True),
        "batch topk": lambda: batch_topk(False),
        "batch topk matched": lambda: batch_topk(True),
        "standard": lambda: standard(False),
        "standard matched": lambda: standard(True),
        "SAELens topk": lambda: theirs(TopKTrainingSAE, TopKTrainingSAEConfig, k=size.k),
        # with its default ranking by decoder norm SAELens's sparse mode has no backward pass under torch 2.13
        "SAELens topk sparse": lambda: theirs(
            TopKTrainingSAE,
            TopKTrainingSAEConfig,
            k=size.k,
            use_sparse_activations=True,
            rescale_acts_by_decoder_norm=False,
        ),
        "SAELens standard": lambda: theirs(StandardTrainingSAE, StandardTrainingSAEConfig),
        "topk by torch.func.jvp": lambda: _by_product(other(), x, y, known, forward_jvp),
        "topk by double vjp": lambda: _by_product(other(), x, y, known, double_vjp),
        "topk, a pass for no coordinate": lambda: _by_coordinate(other(), x, y, 0),
        "topk, a pass per coordinate": lambda: _by_coordinate(other(), x, y, coordinates),
        "exact cosine by Gram": lambda: _gram_cosine(other(), layer, x),
        "exact cosine by vmap(jacrev)": lambda: _jacrev_cosine(other(), layer, x[:rows]),
        "Gram's set-up": lambda: _gram_set_up(other(), layer),
    }
    left_out = () if size.slow_arms else SLOW
    return {name: make() for name, make in factories.items() if only in (None, name) and name not in left_out}


def _step(sae: TrainingSAE[Any], x: Tensor) -> Arm:
    coefficients = dict.fromkeys(sae.get_coefficients(), 1.0)

    def step() -> None:
        sae.zero_grad()
        inputs = TrainStepInput(
            sae_in=x, coefficients=coefficients, dead_neuron_mask=None, n_training_steps=0, is_logging_step=False
        )
        sae.training_forward_pass(inputs).loss.backward()

    return step


def _by_product(transcoder: TrainingTranscoder[Any], x: Tensor, y: Tensor, known: LayerResponse, method: Any) -> Arm:
    """The same step with t(x) and J_t v from one call of a general method of differentiation."""

    def step() -> None:
        transcoder.zero_grad()
        t, Jv = method(transcoder, x, known.v[0])
        error = (Jv - known.Jv[0]).square().sum(-1).mean() * known.scale
        ((t - y).square().sum(-1).mean() + error).backward()

    return step


def _by_coordinate(transcoder: TrainingTranscoder[Any], x: Tensor, y: Tensor, coordinates: int) -> Arm:
    """A step that makes the Jacobian's first rows, each by a backward pass that can be differentiated."""

    def step() -> None:
        transcoder.zero_grad()
        point = x.clone().requires_grad_()
        t = transcoder(point)
        loss = (t - y).square().sum(-1).mean()
        for i in range(coordinates):
            (row,) = torch.autograd.grad(t[:, i].sum(), point, create_graph=True)
            loss = loss + row.square().sum(-1).mean()
        loss.backward()

    return step


def _gram_cosine(transcoder: TrainingTranscoder[Any], layer: SwiGLU, x: Tensor) -> Arm:
    """The cosine of whole Jacobians at each row, the Gram matrices made beforehand."""
    gram = _gram_set_up(transcoder, layer)()

    def cosine() -> None:
        region = linear_region(transcoder, x)
        assert region is not None
        gram.products(region, x).cosine.cpu()

    return cosine


def _gram_set_up(transcoder: TrainingTranscoder[Any], layer: SwiGLU) -> Callable[[], JacobianGram]:
    weights = mlp_weights(layer)
    assert weights is not None
    return lambda: JacobianGram(Weights.of(transcoder), weights)


def _jacrev_cosine(transcoder: TrainingTranscoder[Any], layer: SwiGLU, x: Tensor) -> Arm:
    """The same by a backward pass per output, which is what people write."""

    def cosine() -> None:
        with torch.no_grad():
            J_t, J_f = (torch.vmap(torch.func.jacrev(f))(x).flatten(1) for f in (transcoder, layer))
            torch.cosine_similarity(J_t, J_f).cpu()

    return cosine
