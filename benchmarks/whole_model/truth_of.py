"""What the truth test of attribution graphs says of one set of transcoders, as sums over pairs, prompt by prompt."""

from collections.abc import Collection, Sequence

import numpy as np
from pydantic import Field

from faithfulness_plugin.attribution.interventions import Kind
from faithfulness_plugin.attribution.truth import On
from faithfulness_plugin.results.schema import Record


class TruthOf(Record):
    """Predicted beside measured effects of one kind of intervention, prompt by prompt."""

    kind: Kind
    on: On
    distance: int = Field(description="the least distance in blocks of its group: 1, 2, 4, 8 or 16 and more")
    prompts: list[int]
    sums: list[list[float]] = Field(description="for each prompt the fields of EffectSums, in their order")


def sums_by_prompt(
    truth: Sequence[TruthOf], n_prompts: int, kinds: Collection[str], on: str, distance: int | None
) -> np.ndarray:
    """Add up the sums of some interventions, prompt by prompt.

    Args:
        truth: of one set of transcoders.
        n_prompts: how many prompts there are.
        kinds: kinds of interventions.
        on: which targets respond.
        distance: the group of distances; None adds up all.

    Returns:
        [parts, prompts], parts as in EffectSums; zeros for a prompt without a pair.
    """
    from faithfulness_plugin.attribution.agreement import FIELDS

    found = np.zeros((len(FIELDS), n_prompts))
    for part in truth:
        if part.kind in kinds and part.on == on and distance in (None, part.distance):
            for prompt, sums in zip(part.prompts, part.sums, strict=True):
                found[:, prompt] += sums
    return found
