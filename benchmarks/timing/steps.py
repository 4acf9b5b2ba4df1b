"""The ways to make one training step, each a function without arguments.

A step is `training_forward_pass` and its backward pass. The layer's part (f(x) and J_f v) is computed beforehand for
every arm alike, and is an arm of its own.
"""

import copy
import sys
from collections.abc import Callable
from typing import Any

import torch
from sae_lens import StandardTrainingSAEConfig, TopKTrainingSAEConfig
from sae_lens.registry import get_sae_training_class
from sae_lens.saes.sae import TrainStepInput
from torch import Tensor, nn
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaMLP
from typing_extensions import override

from faithfulness_plugin.benchmarks.timing.configs import Size, SpeedConfig
from faithfulness_plugin.jacobian.gram import JacobianGram
from faithfulness_plugin.jacobian.layer_response import LayerResponse
from faithfulness_plugin.jacobian.linear_region import Weights, linear_region
from faithfulness_plugin.jacobian.matching import JacobianMatching
from faithfulness_plugin.layers.derivatives import Layer, double_vjp, forward_jvp, layer_jvp, layer_output
from faithfulness_plugin.layers.mlp_weights import mlp_weights
from faithfulness_plugin.transcoders.base import TrainingTranscoder
from faithfulness_plugin.transcoders.batch_topk import BatchTopKTrainingTranscoderConfig
from faithfulness_plugin.transcoders.standard import StandardTrainingTranscoderConfig
from faithfulness_plugin.transcoders.topk import TopKTrainingTranscoderConfig

Step = Callable[[], Any]

SLOW = ("topk, a pass per coordinate", "exact cosine by vmap(jacrev)")
MEMORY_STEPS = 3
PAIRS: dict[str, Any] = {"probe": "pair"}
SECANTS: dict[str, Any] = {"estimator": "secant", "probe": "pair", "radius": 0.5}


def swiglu(d: int, d_mlp: int) -> nn.Module:
    """Build a gated MLP as language models have it.

    Args:
        d: width of its input and output.
        d_mlp: hidden width.

    Returns:
        The MLP, with random weights.
    """
    return LlamaMLP(LlamaConfig(hidden_size=d, intermediate_size=d_mlp, num_attention_heads=1))


class KnownTargets(JacobianMatching):
    """Matches against targets that were computed beforehand.

    Args:
        known: the layer's response.
    """

    def __init__(self, known: LayerResponse) -> None:
        super().__init__()
        self._known = known

    @override
    def targets(self, layer: Layer, x: Tensor, *, y: Tensor | None = None) -> LayerResponse:
        """Return the known ones, at x itself."""
        return self._known._replace(x=x)


def steps(size: Size, c: SpeedConfig, only: str | None = None) -> dict[str, Step]:
    """Build every arm of a size.

    Args:
        size: widths and batch.
        c: rounds and device.
        only: build this arm alone; None builds all.

    Returns:
        Steps by arm, each a function without arguments.
    """
    torch.manual_seed(c.seed)
    layer = swiglu(size.d, size.d_mlp).to(c.device)
    x = torch.randn(size.batch, size.d, device=c.device)
    known = JacobianMatching(probe="rademacher", seed=c.seed).targets(layer, x)
    assert known.v is not None
    v = known.v[0]
    common: dict[str, Any] = {"d_in": size.d, "d_sae": size.d_sae, "device": c.device}

    def ours(config: type[Any], coefficient: float, **fields: Any) -> Step:
        transcoder = _untrained(config(**common, **fields, jacobian_coefficient=coefficient))
        transcoder.set_layer(lambda _: known.y)
        transcoder.matching = KnownTargets(known)
        return _step(transcoder, x)

    def theirs(config: type[Any], **fields: Any) -> Step:
        return _step(_untrained(config(**common, **fields)), x)

    def topk() -> TrainingTranscoder[Any]:
        return _untrained(TopKTrainingTranscoderConfig(**common, k=size.k))

    factories: dict[str, Callable[[], Step]] = {
        **_all_in(size, c, layer, x),
        "layer": lambda: lambda: layer_output(layer, x),
        "layer's Jv": lambda: lambda: layer_jvp(layer, x, v),
        "topk": lambda: ours(TopKTrainingTranscoderConfig, 0.0, k=size.k),
        "topk matched": lambda: ours(TopKTrainingTranscoderConfig, 1.0, k=size.k),
        "batch topk": lambda: ours(BatchTopKTrainingTranscoderConfig, 0.0, k=float(size.k)),
        "batch topk matched": lambda: ours(BatchTopKTrainingTranscoderConfig, 1.0, k=float(size.k)),
        "standard": lambda: ours(StandardTrainingTranscoderConfig, 0.0),
        "standard matched": lambda: ours(StandardTrainingTranscoderConfig, 1.0),
        "SAELens topk": lambda: theirs(TopKTrainingSAEConfig, k=size.k),
        # with its default ranking by decoder norm SAELens's sparse mode has no backward pass under torch 2.15
        "SAELens topk sparse": lambda: theirs(
            TopKTrainingSAEConfig, k=size.k, use_sparse_activations=True, rescale_acts_by_decoder_norm=False
        ),
        "SAELens standard": lambda: theirs(StandardTrainingSAEConfig),
        "topk by torch.func.jvp": lambda: _by_product(topk(), known, forward_jvp),
        "topk by double vjp": lambda: _by_product(topk(), known, double_vjp),
        "topk, a pass for no coordinate": lambda: _by_coordinate(topk(), known, 0),
        "topk, a pass per coordinate": lambda: _by_coordinate(topk(), known, c.coordinates),
        "exact cosine by Gram": lambda: _gram_cosine(topk(), layer, x),
        "exact cosine by vmap(jacrev)": lambda: _jacrev_cosine(topk(), layer, x[: c.jacobian_rows]),
        "Gram's set-up": lambda: _gram_set_up(topk(), layer),
    }
    left_out = () if size.slow_arms else SLOW
    return {name: make() for name, make in factories.items() if only in (None, name) and name not in left_out}


def _all_in(size: Size, c: SpeedConfig, layer: nn.Module, x: Tensor) -> dict[str, Callable[[], Step]]:
    """Build the arms that ask the layer at every step."""
    k: dict[str, Any] = {"k": size.k}
    theirs = TopKTrainingSAEConfig(d_in=size.d, d_sae=size.d_sae, device=c.device, **k)

    def of_layer(probe: str) -> Step:
        matching = JacobianMatching(seed=c.seed, probe=probe)
        return lambda: matching.targets(layer, x)

    def ours(
        config: type[Any], jacobian: dict[str, Any] | None = None, dtype: torch.dtype = x.dtype, **fields: Any
    ) -> Step:
        fields |= {"jacobian": jacobian, "jacobian_coefficient": 0.0 if jacobian is None else 1.0}
        transcoder = _untrained(config(d_in=size.d, d_sae=size.d_sae, device=c.device, dtype=str(dtype), **fields))
        return _step(transcoder.set_layer(copy.deepcopy(layer).to(dtype)), x.to(dtype))

    def saelens() -> Step:
        step = _step(_untrained(theirs), x)
        return lambda: (layer_output(layer, x), step())

    return {
        "layer's f and Jv, pair probes": lambda: of_layer("pair"),
        "layer's f and Jv, isotropic": lambda: of_layer("rademacher"),
        "topk all in": lambda: ours(TopKTrainingTranscoderConfig, **k),
        "topk all in, pair probes": lambda: ours(TopKTrainingTranscoderConfig, PAIRS, **k),
        "topk all in, pair probes, bfloat16": lambda: ours(TopKTrainingTranscoderConfig, PAIRS, torch.bfloat16, **k),
        "topk all in, secants": lambda: ours(TopKTrainingTranscoderConfig, SECANTS, **k),
        "batch topk all in": lambda: ours(BatchTopKTrainingTranscoderConfig, k=float(size.k)),
        "batch topk all in, pair probes": lambda: ours(BatchTopKTrainingTranscoderConfig, PAIRS, k=float(size.k)),
        "standard all in": lambda: ours(StandardTrainingTranscoderConfig),
        "standard all in, pair probes": lambda: ours(StandardTrainingTranscoderConfig, PAIRS),
        "standard all in, pair probes, bfloat16": lambda: ours(StandardTrainingTranscoderConfig, PAIRS, torch.bfloat16),
        "SAELens topk all in": saelens,
    }


def _untrained(config: Any) -> Any:
    return get_sae_training_class(config.architecture())[0](config)


def _step(sae: Any, x: Tensor) -> Step:
    inputs = TrainStepInput(
        sae_in=x,
        coefficients=dict.fromkeys(sae.get_coefficients(), 1.0),
        dead_neuron_mask=None,
        n_training_steps=0,
        is_logging_step=False,
    )

    def step() -> None:
        sae.zero_grad()
        sae.training_forward_pass(inputs).loss.backward()

    return step


def _by_product(transcoder: TrainingTranscoder[Any], known: LayerResponse, method: Any) -> Step:
    """Make the step with t(x) and J_t v from one call of a general method of differentiation."""
    assert known.v is not None
    assert known.Jv is not None
    v, wanted = known.v[0], known.Jv[0]

    def step() -> None:
        transcoder.zero_grad()
        t, Jv = method(transcoder, known.x, v)
        error = (Jv - wanted).square().sum(-1).mean() * known.scale
        ((t - known.y).square().sum(-1).mean() + error).backward()

    return step


def _by_coordinate(transcoder: TrainingTranscoder[Any], known: LayerResponse, coordinates: int) -> Step:
    """Make the Jacobian's first rows in a step, each by a backward pass that can be differentiated."""

    def step() -> None:
        transcoder.zero_grad()
        point = known.x.clone().requires_grad_()
        t = transcoder(point)
        loss = (t - known.y).square().sum(-1).mean()
        for i in range(coordinates):
            (row,) = torch.autograd.grad(t[:, i].sum(), point, create_graph=True)
            loss = loss + row.square().sum(-1).mean()
        loss.backward()

    return step


def _gram_cosine(transcoder: TrainingTranscoder[Any], layer: nn.Module, x: Tensor) -> Step:
    """Compute the cosine of whole Jacobians at each row, with the Gram matrices made beforehand."""
    gram = _gram_set_up(transcoder, layer)()

    def cosine() -> None:
        region = linear_region(transcoder, x)
        assert region is not None
        gram.products(region, x).cosine.cpu()

    return cosine


def _gram_set_up(transcoder: TrainingTranscoder[Any], layer: nn.Module) -> Callable[[], JacobianGram]:
    weights = mlp_weights(layer)
    assert weights is not None
    return lambda: JacobianGram(Weights.of(transcoder), weights)


def _jacrev_cosine(transcoder: TrainingTranscoder[Any], layer: nn.Module, x: Tensor) -> Step:
    """Compute the same by a backward pass per output, as is common."""

    def cosine() -> None:
        with torch.no_grad():
            J_t, J_f = (torch.vmap(torch.func.jacrev(f))(x).flatten(1) for f in (transcoder, layer))
            torch.cosine_similarity(J_t, J_f).cpu()

    return cosine


def _a_few_steps(arm: str, size: Size, c: SpeedConfig) -> None:
    """Make steps of one arm in this process, whose peak memory is measured."""
    torch.set_num_threads(c.threads)
    step = steps(size, c, arm)[arm]
    if c.device == "cuda":
        torch.cuda.reset_peak_memory_stats()  # not what making the targets took
    for _ in range(MEMORY_STEPS):
        step()


if __name__ == "__main__":
    _a_few_steps(sys.argv[1], Size.model_validate_json(sys.argv[2]), SpeedConfig.model_validate_json(sys.argv[3]))
