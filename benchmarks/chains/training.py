"""Cross-layer transcoders of several seeds and strengths, trained at once on one chain.

Each is a `CrossLayerTrainingTranscoder`: its own encoder, decoder, penalty and matching, mapped over the members.
"""

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from itertools import product
from typing import Any, NamedTuple, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.utils._pytree import tree_map

from faithfulness_plugin.benchmarks.chains.chain_task import ChainTask
from faithfulness_plugin.benchmarks.chains.methods import BATCH_SIZE, NOISE, TERMS, ChainMethod
from faithfulness_plugin.benchmarks.note.trainer.ensemble import TRAINER, learning_rates
from faithfulness_plugin.benchmarks.note.trainer.rows import RowInputs
from faithfulness_plugin.jacobian.chain_response import ChainResponse
from faithfulness_plugin.jacobian.probes import gaussian
from faithfulness_plugin.layers.layer_chain import LayerChain
from faithfulness_plugin.transcoders.base import NonFiniteError, TranscoderStepInput, mean_over_rows
from faithfulness_plugin.transcoders.cross_layer import CrossLayerTrainingTranscoder
from faithfulness_plugin.transcoders.seeded import made_with_seed


class Batch(NamedTuple):
    """One step's rows for all seeds, and what the chain does there."""

    x: Float[Tensor, "seeds batch width"]
    y: Float[Tensor, "seeds batch width"]
    response: tuple[Any, ...] | None
    """The fields of the `ChainResponse`, where derivatives are matched; its units are those of all seeds' rows."""
    moved: Float[Tensor, "seeds batch width"] | None
    """Other rows, where outputs are matched there too."""
    y_moved: Float[Tensor, "seeds batch width"] | None


class Losses(nn.Module):
    """The sum of one member's losses, as a function that can be mapped over members."""

    def __init__(self, transcoder: CrossLayerTrainingTranscoder, link: Any) -> None:
        super().__init__()
        self.transcoder, self.link = transcoder, link

    def forward(self, batch: Batch, strength: Tensor, coefficient: float) -> Tensor:
        """Compute the objective of `CrossLayerTrainingTranscoder.training_forward_pass` at rows of one seed.

        Args:
            batch: the rows, without the dimension of seeds.
            strength: the sparsity coefficient.
            coefficient: of the term, at this step.

        Returns:
            The loss.
        """
        transcoder, matching = self.transcoder, self.transcoder.matching
        matched = batch.response is not None
        region = transcoder.encode_to_region(batch.x, matching.config.gate_bandwidth if matched else None)
        out = transcoder.output_at(batch.x, region)
        loss = mean_over_rows((out - batch.y).square())
        given = TranscoderStepInput(batch.y, {"sparsity": 1.0}, None, 0, False, x=batch.x)
        hidden_pre = cast(Tensor, region.hidden_pre)
        (sparsity,) = transcoder.calculate_aux_loss(given, region.feature_acts, hidden_pre, out).values()
        loss = loss + strength * sparsity
        if batch.response is not None:
            targets = cast(Any, ChainResponse)(*batch.response, self.link)
            gate = None if matching.config.jitter > 0 else region  # jittered rows open other gates
            loss = loss + coefficient * matching.from_targets(transcoder, targets, gate=gate)
        if batch.moved is not None:
            loss = loss + coefficient * mean_over_rows((transcoder(batch.moved) - batch.y_moved).square())
        return loss


def train_members(task: ChainTask, method: ChainMethod, seeds: Sequence[int]) -> list[CrossLayerTrainingTranscoder]:
    """Train a transcoder for each strength of the method and each seed, by Adam with each gradient's norm clipped at 1.

    Args:
        task: the chain, and its rows.
        method: what is trained.
        seeds: decide weights and rows.

    Returns:
        The transcoders in `eval` mode, strength by strength, the seed changing fastest.

    Raises:
        NonFiniteError: NaN or Inf in the weights.
    """
    chain, shape = task.chain, (len(method.strengths), len(seeds))
    configs = [method.config(task.d, len(chain), strength=s, seed=seeds[0]) for s in method.strengths]
    made: Any = [made_with_seed(deepcopy(configs[0]), seed) for seed in seeds]
    layout = {name: p.shape for name, p in made[0].named_parameters() if p.requires_grad}
    # [strengths * seeds, size]: those of one seed begin alike
    packed = torch.stack([torch.cat([of.get_parameter(n).detach().flatten() for n in layout]) for of in made])
    packed = packed.repeat(shape[0], 1).requires_grad_()
    losses, strengths = Losses(made[0], chain.link), torch.tensor(method.strengths)

    def of_member(row: Tensor, strength: Tensor, batch: Batch, coefficient: float) -> Tensor:
        weights = {f"transcoder.{name}": weight for name, weight in _unpacked(row, layout).items()}
        return functional_call(losses, weights, (batch, strength, coefficient))

    optimizer = torch.optim.Adam([packed], betas=(TRAINER.adam_beta1, TRAINER.adam_beta2), fused=True)
    batches, warm_up = _batches(task, method, seeds, made[0].matching), method.n_steps // 8
    for step, (lr, batch) in enumerate(zip(learning_rates(**method.rates), batches, strict=False)):
        coefficient = method.weight * (min(1.0, step / warm_up) if warm_up else 1.0)
        over_seeds = vmap(of_member, in_dims=(0, None, _dims(batch), None))
        over_strengths = vmap(over_seeds, in_dims=(0, 0, None, None))
        # no loss depends on another member's weights: the gradient of the sum is each one's own
        total = over_strengths(packed.view(*shape, -1), strengths, batch, coefficient).sum()
        (gradient,) = torch.autograd.grad(total, packed)
        norms = gradient.norm(dim=1, keepdim=True)
        packed.grad = gradient.mul_((1 / (norms + 1e-6)).clamp_(max=1))
        optimizer.param_groups[0]["lr"] = lr
        optimizer.step()
    if not torch.isfinite(packed).all():
        raise NonFiniteError(f"{method.name}: NaN or Inf in the weights; check its coefficients")
    members = zip(product(configs, seeds), packed.detach(), strict=True)
    return [_as_transcoder(config, seed, _unpacked(row, layout), chain) for (config, seed), row in members]


def _unpacked(row: Tensor, layout: Mapping[str, torch.Size]) -> dict[str, Tensor]:
    """View one member's row as weights by name."""
    parts = row.split([shape.numel() for shape in layout.values()])
    return {name: part.view(shape) for (name, shape), part in zip(layout.items(), parts, strict=True)}


def _as_transcoder(config: Any, seed: int, weights: dict[str, Tensor], chain: LayerChain) -> Any:
    """Make a member's weights its transcoder."""
    transcoder = made_with_seed(deepcopy(config), seed)
    with torch.no_grad():
        for name, weight in weights.items():
            transcoder.get_parameter(name).copy_(weight)
    return transcoder.set_layer(chain).eval()


@torch.no_grad()
def _batches(task: ChainTask, method: ChainMethod, seeds: Sequence[int], matching: Any) -> Iterator[Batch]:
    """Draw rows of each seed, and ask the chain for what the term needs, for all seeds at once."""
    chain, term = task.chain, TERMS[method.term]
    inputs = [RowInputs(task.source, BATCH_SIZE, seed) for seed in seeds]
    generator = torch.Generator().manual_seed(seeds[0])
    while True:
        first = torch.stack([next(rows) for rows in inputs])
        x = chain.rows(first)
        y, response, moved = chain(x), None, None
        if term.jacobian:
            of = matching.targets(chain, x, y=y)
            response = (of.x, of.layers, of.partial, of.reached, of.scales)
        elif term.augmentation:
            parts = (first,) if term.augmentation == "chain" else chain.split(x)
            noisy = [row + NOISE * row.square().mean().sqrt() * gaussian(row, 1, generator)[0] for row in parts]
            moved = chain.rows(noisy[0]) if term.augmentation == "chain" else torch.cat(noisy, dim=-1)
        yield Batch(x, y, response, moved, None if moved is None else chain(moved))


def _dims(batch: Batch) -> Any:
    """Find the dimension of seeds in each tensor: it follows that of probes, where there is one."""

    def dim(leaf: Any) -> int | None:
        return None if not isinstance(leaf, Tensor) or leaf.ndim == 0 else leaf.ndim - 3

    return tree_map(dim, batch)
