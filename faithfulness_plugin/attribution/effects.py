"""Effects of interventions on logits and later features: as a graph predicts them, and as the true model shows them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from faithfulness_plugin.attribution.features import PromptFeatures
from faithfulness_plugin.attribution.interventions import Intervention
from faithfulness_plugin.attribution.local import EMBEDDING, Local
from faithfulness_plugin.attribution.replaced_layers import ReplacedLayers
from faithfulness_plugin.display import short_repr
from faithfulness_plugin.layers.hooks import Hook

RUNS = 16
"""Interventions that are measured in one forward pass."""


@dataclass(frozen=True)
class EffectTargets:
    """What responds: logits of the last position, less the mean over the vocabulary, then features' pre-activations."""

    logits: Int[Tensor, " logits"]
    features: Int[Tensor, " features"]
    """Indices into the table of features, in ascending order."""

    __repr__ = short_repr

    def __len__(self) -> int:
        return len(self.logits) + len(self.features)

    def blocks(self, features: PromptFeatures) -> Int[Tensor, " targets"]:
        """Return the block of each target; logits stand behind the last one.

        Args:
            features: those of the prompt.

        Returns:
            The numbers.
        """
        behind = torch.full_like(self.logits, len(features.blocks))
        return torch.cat([behind, features.table[self.features, 0]])


@torch.no_grad()
def predicted_effects(
    replaced: ReplacedLayers, features: PromptFeatures, interventions: Sequence[Intervention], targets: EffectTargets
) -> Float[Tensor, "interventions targets"]:
    """Compute the effects that the graph of all features predicts: the sum over all paths from what is changed to the
    target, with patterns, scales, gates and errors held. That is (I - U)^-1 of `AttributionGraph.total_effects`,
    computed by one backward pass of all targets through the model with transcoders in the layers' places.

    Args:
        replaced: the layers and the transcoders that make the claim.
        features: those of the prompt by the same transcoders.
        interventions: what is changed.
        targets: what responds.

    Returns:
        The change of each target under each intervention.
    """
    local = Local.of(replaced, features.tokens, features.gates)
    order = targets.features.flip(0)  # from the last block down
    blocks, positions, _ = features.table[order].T
    reads = features.reads(order) if len(order) else features.acts.new_zeros(0, 0)
    pulled = local.pull(blocks, positions, reads, local.from_logits(targets.logits), features.across)
    effects = features.logits.new_zeros(len(interventions), len(targets))
    # rows of `pulled`: logits, then features from the last one to the first
    column = torch.cat([torch.arange(len(targets.logits)), torch.arange(len(targets) - 1, len(targets.logits) - 1, -1)])
    changes = [of.changes(features, local.embedding[0]) for of in interventions]
    for block, g in pulled:  # [targets so far, pos, d]
        for row, (of, change) in enumerate(zip(interventions, changes, strict=True)):
            if block in change:
                effects[row, column[: len(g)]] += g[:, of.position] @ change[block].to(g.dtype)
    return effects


@torch.no_grad()
def measured_effects(
    replaced: ReplacedLayers,
    features: PromptFeatures,
    interventions: Sequence[Intervention],
    targets: EffectTargets,
) -> Float[Tensor, "interventions targets"]:
    """Measure the effects in the model itself, whose layers are all its own: the change is added to what the layer
    writes, or to the embedding, and all that follows follows.

    Args:
        replaced: the layers; of the transcoders only what features read and write is used.
        features: those of the prompt.
        interventions: what is changed.
        targets: what responds.

    Returns:
        The change of each target under each intervention.
    """
    clean, embedding = _responses(replaced, features, targets, [])
    each = [(of.position, of.changes(features, embedding)) for of in interventions]
    parts = [_responses(replaced, features, targets, each[i : i + RUNS])[0] for i in range(0, len(each), RUNS)]
    return torch.cat(parts) - clean if parts else clean[:0]


def _responses(
    replaced: ReplacedLayers,
    features: PromptFeatures,
    targets: EffectTargets,
    changed: Sequence[tuple[int, Mapping[int, Tensor]]],
) -> tuple[Float[Tensor, "runs targets"], Float[Tensor, "pos d_model"]]:
    """Run the model under each change, at a position, or once without any; return the targets' values, and the
    embedding."""
    found: dict[int, Tensor] = {}
    embedded: list[Tensor] = []
    table = features.table[targets.features]

    def add(block: int) -> Hook:
        def hook(written: Tensor) -> Tensor | None:
            if block == EMBEDDING:
                embedded.append(written[0].clone())
            here = [(run, at, change[block]) for run, (at, change) in enumerate(changed) if block in change]
            if not here:
                return None
            written = written.clone()
            for run, at, change in here:
                written[run, at] += change.to(written.dtype)
            return written

        return hook

    def read(block: int) -> Hook:
        of = (table[:, 0] == block).nonzero()[:, 0]
        weights = features.blocks[block].weights
        assert weights is not None
        reads = weights.W_enc.T[table[of, 2]]

        def hook(x: Tensor) -> None:
            # [runs, targets, d_in] * [targets, d_in]
            values = (x[:, table[of, 1]].to(reads.dtype) * reads).sum(-1)
            found.update({int(t): v for t, v in zip(of, values.T, strict=True)})

        return hook

    hooks: dict[str, Hook] = {"hook_embed": add(EMBEDDING)}
    for block in table[:, 0].unique().tolist():
        hooks[replaced.layers[block].hook_in] = read(block)
    for block in {block for _, change in changed for block in change} - {EMBEDDING}:
        hooks[replaced.layers[block].hook_out] = add(block)
    logits = replaced.hooks.run(features.tokens.expand(max(1, len(changed)), -1), hooks)[:, -1]
    of_logits = logits[:, targets.logits] - logits.mean(-1, keepdim=True)
    of_features = [found[t].to(logits.dtype)[:, None] for t in range(len(table))]
    return torch.cat([of_logits, *of_features], 1), embedded[0]
