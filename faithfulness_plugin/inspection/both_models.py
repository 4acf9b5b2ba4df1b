"""The model, and the model with the transcoder in the layer's place, as they are and with features changed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from faithfulness_plugin.display import line, short_repr
from faithfulness_plugin.inspection.hooked_transcoder import HookedTranscoder, has_hooks
from faithfulness_plugin.layers.any_model import hooks_of
from faithfulness_plugin.layers.declared_hooks import Declared, declared_hooks
from faithfulness_plugin.layers.hooked_layer import HookedLayer
from faithfulness_plugin.layers.hooks import Hooks
from faithfulness_plugin.layers.replaced_layer import layer_of
from faithfulness_plugin.layers.spliced import Change, run_spliced, stages_after

if TYPE_CHECKING:  # at run time a type is no reason to load SAELens
    from sae_lens import SAE

Do = Literal["ablate", "double", "clamp", "steer"]
Through = Literal["reading", "writing"]


@dataclass(frozen=True)
class FeatureChange:
    """A change of some features at the inputs of `BothModels`."""

    features: tuple[int, ...]
    do: Do
    through: Through
    changed: Bool[Tensor, "prompts *pos"]
    """At which rows (tokens) an activation is changed."""
    of: dict[str, Change]
    """The change, as an argument of `run_spliced`."""

    __repr__ = short_repr


class Run(NamedTuple):
    """What one run of a model carries."""

    stages: Mapping[str, Tensor]
    acts: Tensor | None
    """What the transcoder's features are; None where the model itself runs."""
    logits: Float[Tensor, "tokens vocab"] | None
    """At the tokens that were asked for."""

    __repr__ = short_repr


class BothModels:
    """The model, and the model with the transcoder in the layer's place, on some inputs.

    As it is each is run once, for all changes.

    Args:
        transcoder: as in `intervene`.
        inputs: as in `intervene`.
        layer: as in `intervene`.
        model: as in `intervene`.
        kept: as in `intervene`.
        logits_at: tokens whose logits are kept; None keeps none.

    Raises:
        ValueError: no layer.
    """

    def __init__(
        self,
        transcoder: nn.Module,
        inputs: Int[Tensor, "prompts pos"] | Float[Tensor, "rows d_in"],
        *,
        layer: HookedLayer | nn.Module | None = None,
        model: nn.Module | Hooks | None = None,
        kept: Bool[Tensor, "prompts *pos"] | None = None,
        logits_at: Bool[Tensor, "prompts pos"] | None = None,
    ) -> None:
        self.hooks, self.layer, self.stages = _place(transcoder, layer, model)
        self.transcoder = _with_hooks(transcoder, self.hooks, self.layer, inputs)
        whole = torch.ones(inputs.shape[: 2 if model is not None else 1], dtype=torch.bool)
        self.tokens, self.kept = inputs.to(self.hooks.device), (whole if kept is None else kept).to(self.hooks.device)
        self.logits_at = None if logits_at is None else logits_at.to(self.hooks.device)

    def __repr__(self) -> str:
        return line("BothModels", {"layer": self.layer, "inputs": list(self.tokens.shape)})

    @cached_property
    def clean(self) -> tuple[Run, Run]:
        """The model and the spliced model as they are."""
        return self._run(None), self._run(self.transcoder)

    @torch.no_grad()
    def change(
        self,
        features: int | np.integer | Sequence[int],
        *,
        do: Do = "ablate",
        value: float | None = None,
        through: Through = "reading",
    ) -> FeatureChange:
        """Compute what changing features adds to the layer's input or output.

        Args:
            features: as in `intervene`.
            do: as in `intervene`.
            value: as in `intervene`.
            through: as in `intervene`.

        Returns:
            The change.

        Raises:
            ValueError: as `intervene`.
        """
        which = tuple(np.atleast_1d(np.asarray(features, dtype=np.int64)).tolist())
        _check(self.transcoder, which, do, value, through)
        assert self.clean[1].acts is not None
        # acts, wanted, moved: [prompts, pos, features] (of rows [rows, features])
        acts = self.clean[1].acts[..., list(which)]
        wanted = {"ablate": torch.zeros_like(acts), "double": 2 * acts}.get(do, torch.full_like(acts, value or 0.0))
        wanted = acts + wanted if do == "steer" else torch.where(acts > 0, wanted, acts)
        moved = (wanted - acts) * self.kept[..., None]
        changed = (moved != 0).any(-1)
        if not changed.any():
            raise ValueError(f"features {which} are not active on these inputs: choose others, or steer them")
        return FeatureChange(which, do, through, changed, _changes(self.transcoder, which, moved, through))

    @torch.no_grad()
    def runs(self, change: FeatureChange) -> tuple[Run, Run]:
        """Run the model and the spliced model with a change.

        Args:
            change: of these inputs.

        Returns:
            What both runs carry.
        """
        return self._run(None, **change.of), self._run(self.transcoder, **change.of)

    @torch.no_grad()
    def _run(self, transcoder: Any | None, **change: Any) -> Run:
        seen = run_spliced(self.hooks, self.layer, self.tokens, self.kept, transcoder, stages=self.stages, **change)
        # of all positions logits are what takes most memory
        return Run(seen.stages, seen.acts, None if self.logits_at is None else seen.logits[self.logits_at])


def _changes(transcoder: "SAE[Any]", which: tuple[int, ...], moved: Tensor, through: Through) -> dict[str, Any]:
    if through == "reading":
        reads = transcoder.W_enc.T[list(which)]
        # [..., features] @ [features, d_in]: sum_i (a'_i - a_i) W_enc^i / ||W_enc^i||^2
        step = moved @ (reads / reads.square().sum(-1, keepdim=True))
        return {"of_input": lambda x: x + step.to(x.dtype)}
    # [..., features] @ [features, d_out]
    written = moved @ transcoder.W_dec[list(which)]
    return {"of_output": lambda y: y + written.to(y.dtype)}


def _place(transcoder: Any, layer: Any, model: Any) -> tuple[Hooks, HookedLayer, list[str]]:
    """Return the hooks, the layer that the transcoder replaces, and where effects are read."""
    if model is None:
        if layer is None or not hasattr(layer, "hook_dict"):
            raise ValueError("pass the model, or as layer a bare layer with hooks (AbsNetwork)")
        return hooks_of(layer), HookedLayer("hook_in", "hook_out", layer), ["hook_out"]
    hooks = hooks_of(model)
    if layer is None:
        declared = declared_hooks(transcoder) if hasattr(transcoder, "cfg") else Declared()
        if declared.hook_in is None and declared.layer is None:
            raise ValueError("the transcoder's metadata do not say which layer it replaces: pass layer=")
        layer = layer_of(model, [transcoder])
    return hooks, layer, stages_after(hooks, layer)


def _with_hooks(transcoder: nn.Module, hooks: Hooks, layer: HookedLayer, inputs: Tensor) -> Any:
    """Return the transcoder with SAELens's hook point; where it has none, by the layer's input at the first prompt."""
    if has_hooks(transcoder):
        return transcoder
    seen: list[Tensor] = []
    hooks.run(inputs[:1].to(hooks.device), {layer.hook_in: seen.append})
    return HookedTranscoder(transcoder, seen[0].flatten(0, -2))


def _check(transcoder: "SAE[Any]", which: tuple[int, ...], do: Do, value: float | None, through: Through) -> None:
    d_sae = len(transcoder.W_dec)
    if not which or not all(0 <= i < d_sae for i in which):
        raise ValueError(f"features {which}: the transcoder has the features 0 to {d_sae - 1}")
    if do not in get_args(Do) or through not in get_args(Through):
        raise ValueError(
            f"do={do!r}, through={through!r}: choose do from {', '.join(get_args(Do))}, and through from "
            f"{', '.join(get_args(Through))}"
        )
    if (value is None) != (do in ("ablate", "double")):
        raise ValueError(f"{do} takes {'a value: pass value=' if value is None else 'no value'}")
