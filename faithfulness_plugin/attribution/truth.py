"""The truth test of attribution graphs, prompt by prompt."""

from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from jaxtyping import Bool, Int
from pydantic import Field
from torch import Tensor

from faithfulness_plugin.attribution.agreement import EffectSums
from faithfulness_plugin.attribution.effects import EffectTargets, measured_effects, predicted_effects
from faithfulness_plugin.attribution.features import PromptFeatures, prompt_features
from faithfulness_plugin.attribution.interventions import Intervention, Kind, draw_interventions, draw_targets
from faithfulness_plugin.attribution.replaced_layers import ReplacedLayers
from faithfulness_plugin.attribution.targets import salient_logits
from faithfulness_plugin.errors import UsageError
from faithfulness_plugin.results.schema import Record
from faithfulness_plugin.seeds import derived_seed

On = Literal["logits", "features"]
BANDS = (1, 2, 4, 8, 16)
"""The least distance, in blocks, of each group of distances."""


class TruthRecord(Record):
    """The agreement of one kind of effect on one prompt."""

    prompt: int
    kind: Kind
    on: On = Field(description="which targets respond")
    distance: int = Field(description="the least distance in blocks of its group: 1, 2, 4, 8 or 16 and more")
    sums: EffectSums


def truth_records(
    replaced: ReplacedLayers,
    prompts: Sequence[Int[Tensor, "1 pos"]],
    *,
    claimed: ReplacedLayers | None = None,
    kept: Sequence[Bool[Tensor, " pos"]] | None = None,
    n_each: int = 3,
    n_targets: int = 64,
    seed: int = 0,
) -> Iterator[list[TruthRecord]]:
    """Compare the effects that graphs predict with those that are measured in the model, on one prompt after another.

    Effects of an intervention at block l on targets in later blocks, at its position or later; the distance counts
    blocks, with the logits behind the last one and the embedding in front of the first.

    Args:
        replaced: the model's layers, and the transcoders whose features are removed and doubled.
        prompts: the prompts, each with two tokens or more.
        claimed: transcoders that make the predictions instead, such as copies with a shuffled decoder; they must have
            the same gates.
        kept: for each prompt, tokens that transcoders stand for; None leaves out the first of each.
        n_each: interventions of each of the four kinds on each prompt.
        n_targets: features of each prompt that are looked at.
        seed: decides interventions and targets, which are drawn from the clean run, before anything is measured.

    Returns:
        The records of each prompt, one for each kind, group of targets and of distances with any pair.

    Raises:
        UsageError: other gates in `claimed`; as `prompt_features` and `draw_interventions`.
    """
    for number, tokens in enumerate(prompts):
        features = prompt_features(replaced, tokens, None if kept is None else kept[number])
        claim = features if claimed is None else prompt_features(claimed, tokens, features.kept)
        if not claim.table.equal(features.table):
            raise UsageError("the transcoders that make the predictions have other gates: compare sets with equal ones")
        here = derived_seed(seed, f"prompt {number}")
        interventions = draw_interventions(features, n_each, here)
        targets = EffectTargets(salient_logits(features.logits)[0], draw_targets(features, n_targets, here))
        predicted = predicted_effects(claimed or replaced, claim, interventions, targets)
        measured = measured_effects(replaced, features, interventions, targets)
        yield _records(number, features, interventions, targets, predicted, measured)


def _records(
    number: int,
    features: PromptFeatures,
    interventions: Sequence[Intervention],
    targets: EffectTargets,
    predicted: Tensor,
    measured: Tensor,
) -> list[TruthRecord]:
    of_logits = torch.arange(len(targets)) < len(targets.logits)
    last = torch.full_like(targets.logits, features.tokens.shape[1] - 1)
    positions = torch.cat([last, features.table[targets.features, 1]]).cpu()
    blocks = targets.blocks(features).cpu()
    # [interventions, targets]
    distances = blocks - torch.tensor([of.block for of in interventions])[:, None]
    reached = (distances > 0) & (positions >= torch.tensor([of.position for of in interventions])[:, None])
    bands = torch.bucketize(distances, torch.tensor(BANDS), right=True) - 1
    predicted, measured = predicted.cpu(), measured.cpu()
    records = []
    kinds: list[Kind] = list(dict.fromkeys(of.kind for of in interventions))
    groups: list[tuple[On, Tensor]] = [("logits", of_logits), ("features", ~of_logits)]
    for kind in kinds:
        of_kind = torch.tensor([of.kind == kind for of in interventions])[:, None]
        for on, chosen in groups:
            for band, distance in enumerate(BANDS):
                pairs = reached & of_kind & chosen & (bands == band)
                if pairs.any():
                    sums = EffectSums.of(predicted[pairs], measured[pairs])
                    records.append(TruthRecord(prompt=number, kind=kind, on=on, distance=distance, sums=sums))
    return records
