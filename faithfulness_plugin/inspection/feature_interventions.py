"""What removing and doubling single features does to the next token and to later blocks, computed for a page."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from faithfulness_plugin.display import short_repr
from faithfulness_plugin.errors import UsageError
from faithfulness_plugin.inspection.both_models import BothModels, Run
from faithfulness_plugin.inspection.hooked_reading import acts_at
from faithfulness_plugin.inspection.interventions import InterventionEffect, compare_change
from faithfulness_plugin.inspection.records import FeatureRecords
from faithfulness_plugin.inspection.sample import Origins, RowSample
from faithfulness_plugin.layers.hooked_layer import HookedLayer
from faithfulness_plugin.layers.hooks import Hooks, NoLogits
from faithfulness_plugin.layers.spliced import stages_after

if TYPE_CHECKING:  # at run time a type is no reason to load SAELens
    from sae_lens import SAE

Done = Literal["ablate", "double"]
DONE: tuple[Done, ...] = get_args(Done)
TOP = 20
"""Features that are changed where the first of the table were asked for."""
PROMPTS, POSITIONS = 8, 64
"""Prompts on which a feature is changed, and tokens whose predictions are looked at, at most."""
WORDS, PROBABLE = 10, 1e-3
"""Tokens to remember; they have this probability somewhere, before or after."""


@dataclass(frozen=True)
class NextTokenMoved:
    """What a change does to the prediction of the next token, at the tokens where the feature fires."""

    kl: float
    """KL(clean || changed) in the model, in nats, mean over these tokens."""
    kl_spliced: float
    """The same in the model with the transcoder in the layer's place."""
    tokens: Int[np.ndarray, " tokens"]
    """Those whose log-probability moves most in the model, on average, the largest move first."""
    moves: Float[np.ndarray, " tokens"]
    """The mean change of log p in the model."""
    moves_spliced: Float[np.ndarray, " tokens"]
    """The same in the spliced model."""

    __repr__ = short_repr


@dataclass(frozen=True)
class FeatureIntervention:
    """One feature, removed and doubled."""

    feature: int
    n_prompts: int
    """Those on which it was changed; 0 for a feature that never fires."""
    effects: dict[Done, InterventionEffect]
    """On later blocks."""
    next_token: dict[Done, NextTokenMoved]

    __repr__ = short_repr


def top_features(records: FeatureRecords, most: int = TOP) -> list[int]:
    """Return the features that a page's table begins with: those with the most unbacked.

    Args:
        records: of all features.
        most: how many.

    Returns:
        Their numbers; features that never fire are left out.
    """
    order = np.argsort(-records.unbacked, kind="stable")
    return order[~records.dead[order]][:most].tolist()


def require_changeable(hooks: Hooks, layer: HookedLayer) -> None:
    """Refuse a layer behind which effects cannot be read, before anything is computed.

    Args:
        hooks: the model's.
        layer: the layer that the transcoder replaces.

    Raises:
        UsageError: the model has no hook behind the layer's block, or does not predict the next token.
    """
    try:
        stages_after(hooks, layer)
    except ValueError as error:
        raise UsageError(
            f"what features do behind the layer cannot be read: {error}: pass a layer in a block"
        ) from error
    try:
        with torch.no_grad():
            hooks.run(hooks.random_tokens(), {})
    except NoLogits as error:
        raise UsageError(
            "what features do is measured at the next token, which the model does not predict: pass a causal language "
            "model (AutoModelForCausalLM)"
        ) from error


@torch.no_grad()
def change_features(
    hooks: Hooks,
    layer: HookedLayer,
    transcoder: "SAE[Any]",
    sample: RowSample,
    records: FeatureRecords,
    features: Sequence[int],
    on_feature: Callable[[], None] = lambda: None,
) -> list[FeatureIntervention]:
    """Remove and double features, one at a time, in the model and in the spliced model.

    a_i W_dec^i is taken from, or added to, what the layer (or the transcoder in its place) writes at all tokens of a
    prompt where the feature fires: `intervene` with through="writing". A feature is changed on 8 prompts at most: those
    where it is most active, and others drawn at random from those where it fires.

    Args:
        hooks: the model's.
        layer: the layer that the transcoder replaces.
        transcoder: with SAELens's hook points, in `eval` mode.
        sample: rows of the model's text.
        records: of the same.
        features: which features.
        on_feature: called after each.

    Returns:
        What happened, feature by feature.

    Raises:
        UsageError: a feature that the transcoder does not have, or a sample of no text.
    """
    if sample.origins is None:
        raise UsageError("features are changed in a language model, and the sample is of a bare layer")
    require_features(features, len(transcoder.W_dec))
    found: list[FeatureIntervention] = []
    for feature in features:
        prompts = _prompts(sample.origins, records, feature)
        found.append(
            _changed(hooks, layer, transcoder, sample, feature, prompts)
            if prompts
            else FeatureIntervention(feature, 0, {}, {})
        )
        on_feature()
    return found


def require_features(features: Sequence[int], d_sae: int, name: str = "the transcoder") -> None:
    """Refuse features that a transcoder does not have.

    Args:
        features: their numbers.
        d_sae: how many it has.
        name: what messages call it.

    Raises:
        UsageError: one of them is not there.
    """
    if outside := [i for i in features if not 0 <= i < d_sae]:
        raise UsageError(f"{name} has no feature {outside[0]}: pass numbers from 0 to {d_sae - 1}")


def _prompts(origins: Origins, records: FeatureRecords, feature: int) -> list[int]:
    """Choose prompts where a feature fires: half of them where it is most active, the others at random."""
    top, drawn = (rows[rows >= 0] for rows in (records.top_rows[feature], records.drawn.rows[feature]))
    first = list(dict.fromkeys(origins.prompt[top].tolist()))[: PROMPTS // 2]
    others = np.random.default_rng(feature).permutation(origins.prompt[drawn].numpy()).tolist()
    return list(dict.fromkeys([*first, *others]))[:PROMPTS]


def _changed(
    hooks: Hooks, layer: HookedLayer, transcoder: Any, sample: RowSample, feature: int, prompts: Sequence[int]
) -> FeatureIntervention:
    assert sample.origins is not None
    tokens, row_at = sample.origins.tokens[prompts], sample.origins.row_at[prompts]
    at = _fires(transcoder, sample, row_at, feature)
    models = BothModels(transcoder, tokens, layer=layer, model=hooks, kept=row_at >= 0, logits_at=at)
    clean = [_log_p(of) for of in models.clean]
    effects, moved = dict[Done, InterventionEffect](), dict[Done, NextTokenMoved]()
    for do in DONE:
        change = models.change(feature, do=do, through="writing")
        runs = models.runs(change)
        effects[do] = compare_change(models, change, runs)
        model, spliced = map(_log_p, runs)
        moved[do] = next_token_moved(clean[0], clean[1], model, spliced)
    return FeatureIntervention(feature, len(prompts), effects, moved)


def _log_p(run: Run) -> Tensor:
    assert run.logits is not None
    return run.logits.to(torch.promote_types(run.logits.dtype, torch.float32)).log_softmax(-1)


def _fires(transcoder: Any, sample: RowSample, row_at: Tensor, feature: int) -> Bool[Tensor, "prompts pos"]:
    """Return the tokens at which a feature fires, or as many of them as are looked at, evenly spread."""
    rows = row_at[row_at >= 0]
    fires = torch.zeros(row_at.shape, dtype=torch.bool)
    fires[row_at >= 0] = (acts_at(transcoder, sample.x[rows].to(transcoder.W_dec))[:, feature] > 0).cpu()
    places = fires.flatten().nonzero()[:, 0]
    some = places[torch.linspace(0, len(places) - 1, min(POSITIONS, len(places))).round().long()]
    return torch.zeros_like(fires).flatten().scatter(0, some, True).view_as(fires)


def next_token_moved(
    clean: Float[Tensor, "positions vocab"],
    clean_spliced: Float[Tensor, "positions vocab"],
    changed: Float[Tensor, "positions vocab"],
    changed_spliced: Float[Tensor, "positions vocab"],
    words: int = WORDS,
) -> NextTokenMoved:
    """Compare predictions of the next token before and after a change.

    Args:
        clean: log-probabilities of the model at some tokens.
        clean_spliced: of the spliced model.
        changed: of the model with the change.
        changed_spliced: of the spliced model with the change.
        words: tokens to remember. They have a probability of .001 or more somewhere, in the model before or after.

    Returns:
        KL divergences, and the tokens that move most.
    """

    def kl(before: Tensor, after: Tensor) -> float:
        return (before.exp() * (before - after)).sum(-1).mean().item()

    moves, moves_spliced = (changed - clean).mean(0), (changed_spliced - clean_spliced).mean(0)
    probable = torch.maximum(clean, changed).amax(0) >= np.log(PROBABLE)
    n = min(words, int(probable.sum()))
    top = torch.where(probable, moves.abs(), -1.0).topk(n).indices
    return NextTokenMoved(
        kl(clean, changed),
        kl(clean_spliced, changed_spliced),
        *(of.cpu().numpy() for of in (top, moves[top].double(), moves_spliced[top].double())),
    )
