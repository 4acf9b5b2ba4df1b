"""Changing features in the model, and with the transcoder in the layer's place, and comparing what follows."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from typing_extensions import override

from faithfulness_plugin.display import line
from faithfulness_plugin.inspection.both_models import BothModels, Do, FeatureChange, Run, Through
from faithfulness_plugin.layers.hooked_layer import HookedLayer
from faithfulness_plugin.metrics.downstream import effect
from faithfulness_plugin.metrics.result import MetricResult
from faithfulness_plugin.rounding import beyond_rounding

if TYPE_CHECKING:  # at run time a type is no reason to load SAELens
    import pandas as pd


@dataclass(frozen=True)
class InterventionEffect(MetricResult):
    """What changing some features does in the model (f), and with the transcoder in the layer's place (t)."""

    features: tuple[int, ...]
    do: Do
    through: Through
    changed: int
    """The number of rows (tokens) at which an activation was changed."""
    stages: tuple[str, ...]
    """Where the effects E_f and E_t were compared: the layer's output, or the residual stream block by block."""
    cosine: tuple[float | None, ...]
    """The cosine of E_t and E_f at each stage, mean over the prompts (rows of a bare layer) that the change moves:
    see `metrics.Effect`. None where it moves none."""
    moved: tuple[int, ...]
    """How many prompts (rows) these are."""
    error: tuple[float | None, ...]
    """E||E_t - E_f||^2 / E||E_f||^2 at each stage; 1 says that nothing of the effect is there. None where the layer has
    none: then `size_transcoder` says how large the transcoder's is."""
    size_layer: tuple[float, ...]
    """Root mean square of ||E_f|| over prompts."""
    size_transcoder: tuple[float, ...]
    """Root mean square of ||E_t|| over prompts."""

    @property
    def agreement(self) -> tuple[float, ...]:
        """2 E<E_t, E_f> / (E||E_t||^2 + E||E_f||^2) at each stage: 1 where they are equal, 0 where they have nothing in
        common or one is much larger than the other (which a cosine does not see), -1 where they are opposite."""
        squares = zip(self.error, self.size_layer, self.size_transcoder, strict=True)
        return tuple(float(not t) if error is None else 1 - error * f**2 / (f**2 + t**2) for error, f, t in squares)

    @property
    def faithfulness(self) -> float:
        """The mean agreement: whether the features do to the rest of the model what the layer does there."""
        return sum(self.agreement) / len(self.stages)

    @override
    def to_dict(self) -> dict[str, Any]:
        """Convert the fields, `agreement` and `faithfulness` for JSON."""
        return {**super().to_dict(), "agreement": self.agreement, "faithfulness": self.faithfulness}

    @override
    def __repr__(self) -> str:
        said = self.to_dict()  # a cosine does not see sizes, and may stand for few rows: it does not come first
        return line(type(self).__name__, {k: said[k] for k in dict.fromkeys(["faithfulness", "agreement", *said])})

    @override
    def to_frame(self) -> "pd.DataFrame":
        """Return a row per stage."""
        import pandas as pd

        names = ("agreement", "cosine", "moved", "error", "size_layer", "size_transcoder")
        return pd.DataFrame({"stage": self.stages, **{name: getattr(self, name) for name in names}})


@torch.no_grad()
def intervene(
    transcoder: nn.Module,
    inputs: Int[Tensor, "prompts pos"] | Float[Tensor, "rows d_in"],
    features: int | np.integer | Sequence[int],
    *,
    layer: HookedLayer | nn.Module | None = None,
    model: nn.Module | None = None,
    do: Do = "ablate",
    value: float | None = None,
    through: Through = "reading",
    kept: Bool[Tensor, "prompts *pos"] | None = None,
) -> InterventionEffect:
    """Ablate, double, clamp or steer features in both models, and compare the effects behind the layer.

    a_i becomes 0 (ablate), 2 a_i (double), `value` (clamp; where the feature is active), or a_i + `value` (steer;
    everywhere). Through

    - "reading": the layer's input is moved by sum_i (a'_i - a_i) W_enc^i / ||W_enc^i||^2, the least change that does
    this to each pre-activation by itself, for the layer and for the transcoder. Does the layer respond to what the
    feature reads as the transcoder does?
    - "writing": sum_i (a'_i - a_i) W_dec^i is added to what the layer, or the transcoder, writes. Both streams then
    change alike at first; what differs is what later blocks make of it.

    Args:
        transcoder: any SAELens transcoder with dense activations, or a module whose linear region is registered.
        inputs: tokens of a model, or rows of a bare layer with hooks (`AbsNetwork`).
        features: one, or several that are changed together.
        layer: the one that the transcoder replaces (`mlp_layer(model, block)`); None takes what its metadata say.
            Without a model, the layer itself.
        model: HookedTransformer, HookedSAETransformer (nothing attached at this layer), a bridge, or a plain Hugging
            Face model.
        do: what happens to the features' activations.
        value: for clamp and steer, in units of the activation.
        through: which direction of the features carries the change.
        kept: tokens that the transcoder stands for and that are changed; None keeps all. The layer handles the others.

    Returns:
        Cosine, relative error and sizes of the effects at each stage behind the layer.

    Raises:
        ValueError: a feature that does not exist; `value` missing, or where it has no meaning; no layer; a change that
            changes nothing.

    Source: E. Ameisen et al., "Circuit Tracing", Transformer Circuits, 2025, on perturbation experiments.
    """
    models = BothModels(transcoder, inputs, layer=layer, model=model, kept=kept)
    return compare_change(models, models.change(features, do=do, value=value, through=through))


@torch.no_grad()
def compare_change(
    models: BothModels, change: FeatureChange, runs: tuple[Run, Run] | None = None
) -> InterventionEffect:
    """Compare what a change of features does in the model and in the spliced model.

    Args:
        models: both, on some inputs.
        change: of these inputs.
        runs: what `models.runs` returned for it; None runs both models.

    Returns:
        The effects at each stage.
    """
    changed, changed_spliced = models.runs(change) if runs is None else runs
    each = [of.stages for of in (models.clean[0], changed, models.clean[1], changed_spliced)]
    # at each stage four tensors [prompts, ...]: clean, changed, and both with the transcoder
    by_stage = [tuple(of[stage] for of in each) for stage in models.stages]
    # None for a layer that does not respond at all
    found = [effect(*of) if beyond_rounding(*of[:2]).any() else None for of in by_stage]
    return InterventionEffect(
        features=change.features,
        do=change.do,
        through=change.through,
        changed=int(change.changed.sum()),
        stages=tuple(models.stages),
        cosine=tuple(None if of is None else of.cosine for of in found),
        moved=tuple(0 if of is None else of.moved for of in found),
        error=tuple(None if of is None else of.error for of in found),
        size_layer=tuple(_size(beyond_rounding(clean, changed)) for clean, changed, *_ in by_stage),
        size_transcoder=tuple(_size(beyond_rounding(*spliced)) for _, _, *spliced in by_stage),
    )


def _size(change: Tensor) -> float:
    return change.flatten(1).double().square().sum(1).mean().sqrt().item()
