"""The effects of one change on all later layers, in the model and with all layers replaced, against its size."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from faithfulness_plugin.language_model.replacement import ReplacementModel
from faithfulness_plugin.layers.spliced import Site, stages_replaced
from faithfulness_plugin.measure.interventions import Interventions, Stages, error_and_cosine, moved
from faithfulness_plugin.measure.schema import CHANGES
from faithfulness_plugin.measure.sets.schema import ChangeNumbers, DoseCurve


@torch.no_grad()
def dose_curves(
    model: ReplacementModel,
    tokens: Int[Tensor, "prompts pos"],
    kept: Mapping[int, Bool[Tensor, "prompts pos"]],
    block: int,
    doses: Sequence[float],
    seed: int = 0,
) -> list[ChangeNumbers]:
    """Change one layer's input, and its output by a feature, and compare what both models make of it later on.

    The feature is the largest of the block's transcoder, in the model as it is: the same vector is taken from both.

    Args:
        model: the set in its model.
        tokens: the prompts.
        kept: the tokens that count, by block.
        block: whose layer is changed; it has a transcoder.
        doses: factors of the changes' size.
        seed: decides the changed tokens.

    Returns:
        For each kind of change, without error nodes and with them, the curves after the block and each later one.

    Raises:
        ValueError: no prompt has a token to change.
    """
    of = Interventions(model.hooks, model.layers[block], tokens, kept[block], model.transcoders[block], seed=seed)
    has = kept[block][:, :-1].any(1)  # the prompts that `of` keeps
    masks = {b: mask[has] for b, mask in kept.items()}
    place = list(model.transcoders).index(block)
    alike = {errors: model.sites(of.tokens, errors=errors, kept=masks) for errors in (False, True)}
    own = Site(of.layer, of.kept)

    def stages(sites: Sequence[Site]) -> Stages:
        return stages_replaced(of.hooks, of.tokens, sites, of.stages)

    clean, clean_replaced = stages([own]), {errors: stages(sites) for errors, sites in alike.items()}
    found: list[ChangeNumbers] = []
    for kind in CHANGES:
        curves: dict[bool, dict[str, tuple[list, list]]] = {e: {s: ([], []) for s in of.stages} for e in alike}
        for dose in doses:
            change = of.change(kind, dose)
            in_model = moved(clean, stages([replace(own, **change)]))
            for errors, sites in alike.items():
                there = [replace(site, **change) if n == place else site for n, site in enumerate(sites)]
                _append(curves[errors], in_model, moved(clean_replaced[errors], stages(there)))
        found += [
            ChangeNumbers(
                block=block,
                change=kind,
                errors=errors,
                stages=[DoseCurve(stage=s, error=error, cosine=cosine) for s, (error, cosine) in by_stage.items()],
            )
            for errors, by_stage in curves.items()
        ]
    return found


def _append(curves: Mapping[str, tuple[list, list]], in_model: Stages, replaced: Stages) -> None:
    for stage, (errors, cosines) in curves.items():
        error, cosine = error_and_cosine(in_model[stage], replaced[stage])
        errors.append(error)
        cosines.append(cosine)
