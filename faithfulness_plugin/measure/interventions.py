"""Changes inside a language model, with and without a transcoder in the layer's place."""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from itertools import product
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from faithfulness_plugin.layers.hooked_layer import HookedLayer
from faithfulness_plugin.layers.hooks import Hooks
from faithfulness_plugin.layers.spliced import Change, Site, run_spliced, stages_after, stages_replaced
from faithfulness_plugin.measure.config import HALF_WAY
from faithfulness_plugin.measure.schema import CHANGES, ChangeKind, DeletionRecord, EffectRecord
from faithfulness_plugin.metrics.deletion import deletion
from faithfulness_plugin.metrics.downstream import compare_effects
from faithfulness_plugin.metrics.next_token import cross_entropy
from faithfulness_plugin.rounding import beyond_rounding
from faithfulness_plugin.seeds import derived_seed

if TYPE_CHECKING:  # at run time a type is no reason to load SAELens
    from sae_lens import SAE

Stages = Mapping[str, Tensor]
"""Activations by hook, as later layers see them."""


def error_and_cosine(of_layer: Tensor, of_transcoder: Tensor) -> tuple[float, float] | tuple[None, None]:
    """Compare the effects of a change, where it has one.

    Args:
        of_layer: as in `compare_effects`.
        of_transcoder: as in `compare_effects`.

    Returns:
        The relative error and the cosine; None where nothing changes in the model, as where a feature is not active.
    """
    if not of_layer.any():
        return None, None
    of = compare_effects(of_layer, of_transcoder)
    return of.error, of.cosine


def moved(before: Stages, after: Stages) -> dict[str, Tensor]:
    """Compute what a change moves at each stage, beyond rounding.

    Args:
        before: activations by stage.
        after: the same with the change.

    Returns:
        The changes by stage.
    """
    return {stage: beyond_rounding(activation, after[stage]) for stage, activation in before.items()}


class Interventions:
    """Changes the layer's input or output at one token of each prompt, the same for everything that is compared.

    What the model itself makes of the changes is computed once, for all that stands in the layer's place.

    Args:
        hooks: the model's.
        layer: the layer that transcoders replace.
        tokens: the prompts.
        kept: the tokens at which transcoders stand in the layer's place.
        features_of: the transcoder whose largest feature at that token is removed, from the layer's output or from that
            of whatever stands in its place.
        seed: decides the tokens, and random features.

    Raises:
        ValueError: no prompt has a token to change.
    """

    def __init__(
        self,
        hooks: Hooks,
        layer: HookedLayer,
        tokens: Int[Tensor, "prompts pos"],
        kept: Bool[Tensor, "prompts pos"],
        features_of: Any,
        *,
        seed: int = 0,
    ) -> None:
        has = kept[:, :-1].any(1)  # the last token's effect would reach no prediction
        self.hooks, self.layer, self.tokens, self.kept = hooks, layer, tokens[has], kept[has]
        if not len(self.tokens):
            raise ValueError("no prompt has a token to change: give longer prompts")
        generator = torch.Generator().manual_seed(derived_seed(seed, "changed tokens"))
        self.at = torch.tensor([_one_of(row[:-1], generator) for row in self.kept.cpu()], device=self.tokens.device)
        self.each = torch.arange(len(self.tokens), device=self.tokens.device)
        self.stages = stages_after(hooks, layer)
        self.features_of = features_of
        self._seed = seed

    @torch.no_grad()
    def effects(self, transcoder: "SAE[Any]") -> dict[ChangeKind, list[EffectRecord]]:
        """Measure the effects of both changes, after every block from the layer's own on.

        Args:
            transcoder: stands in the layer's place in the spliced model.

        Returns:
            For each kind of change, one record a block.
        """
        clean = self._stages(transcoder)

        def effects_of(kind: ChangeKind) -> list[EffectRecord]:
            in_model = self._in_model[kind]
            spliced = moved(clean, self._stages(transcoder, **self.change(kind)))
            each = {stage: error_and_cosine(in_model[stage], spliced[stage]) for stage in self.stages}
            return [EffectRecord(stage=stage, error=error, cosine=cosine) for stage, (error, cosine) in each.items()]

        return {kind: effects_of(kind) for kind in CHANGES}

    @cached_property
    def _in_model(self) -> dict[ChangeKind, dict[str, Tensor]]:
        """What each change moves at every stage of the model as it is."""
        clean = self._stages(None)
        return {kind: moved(clean, self._stages(None, **self.change(kind))) for kind in CHANGES}

    @torch.no_grad()
    def change(self, kind: ChangeKind, dose: float = 1.0) -> dict[str, Change]:
        """Return a change at one token of each prompt, as an argument of `Site` and `run_spliced`.

        Args:
            kind: "input": the layer's input there moves half-way to that of the prompt before; "feature": what the
                largest feature writes there is taken away.
            dose: the factor of the change's size.

        Returns:
            The change by the argument's name.
        """
        if kind == "input":
            return {"of_input": partial(self._half_way, dose=dose)}
        return {"of_output": partial(self._without, written=dose * self._written)}

    def _stages(self, transcoder: "SAE[Any] | None", **change: Any) -> dict[str, Tensor]:
        site = Site(self.layer, self.kept, transcoder, **change)
        return stages_replaced(self.hooks, self.tokens, [site], self.stages)

    def _half_way(self, x: Float[Tensor, "prompts pos d_in"], dose: float) -> Tensor:
        """Move each prompt's token half-way to that of the prompt before."""
        # x [prompts, pos, d_in] -> [prompts, d_in], one token of each prompt; roll gives the prompt before
        there = x[self.each, self.at]
        changed = x.clone()
        changed[self.each, self.at] = there + dose * HALF_WAY * (there.roll(1, 0) - there)
        return changed

    def _without(self, y: Float[Tensor, "prompts pos d_out"], written: Float[Tensor, "prompts d_out"]) -> Tensor:
        changed = y.clone()
        changed[self.each, self.at] -= written.to(y.dtype)
        return changed

    @cached_property
    def _written(self) -> Float[Tensor, "prompts d_out"]:
        """What each prompt's largest feature writes at its token, in the model as it is."""
        seen: list[Tensor] = []
        site = Site(self.layer, self.kept, self.features_of, of_acts=lambda acts: seen.append(acts) or acts)
        stages_replaced(self.hooks, self.tokens, [site], [self.layer.hook_out])
        # [prompts, pos, d_sae] -> [prompts, d_sae]
        acts = seen[0][self.each, self.at]
        W_dec = self.features_of.W_dec
        largest = (acts * W_dec.norm(dim=-1)).argmax(-1)
        # a_i W_dec^i of each prompt's largest feature, [prompts, 1] * [prompts, d_out]
        return acts.gather(-1, largest[:, None]) * W_dec[largest]

    def deletion(
        self, transcoder: "SAE[Any]", sizes: Sequence[int], on_run: Callable[[float], None] = lambda _: None
    ) -> DeletionRecord | None:
        """Measure the deletion curve of the transcoder's active features.

        A feature at one token counts as one; they are ranked by a * ds/da, s the log-probability of each prompt's last
        token.

        Args:
            transcoder: stands in the layer's place.
            sizes: how many features are deleted; those that some prompt does not have are left out.
            on_run: called after each run of the model, with the share of them that is done.

        Returns:
            The curve; None where no feature is active, or all of them change no prediction.
        """
        acts, attributions, whole = self._attributions(transcoder)
        # [prompts, pos * d_sae]: a feature at a token is one entry
        active = acts.flatten(1) > 0
        counts = active.sum(1)
        sizes = [m for m in sizes if m <= counts.min()]
        if not sizes:
            return None
        empty = self._score(transcoder, torch.zeros_like)
        if not beyond_rounding(whole, empty).any():
            return None
        generator = torch.Generator().manual_seed(derived_seed(self._seed, "features at random"))
        noise = torch.rand(active.shape, generator=generator).to(active.device)
        minus = torch.finfo(torch.float32).min
        # places of active entries first, by attribution and at random: [prompts, the most that are deleted]
        orders = attributions.flatten(1).float(), noise
        first = [torch.where(active, by, minus).topk(max(sizes), dim=1).indices for by in orders]
        scores = list[Tensor]()
        for ranked, m in product(first, sizes):
            scores.append(self._score(transcoder, _without(ranked[:, :m])))
            on_run((len(scores) + 3) / (2 * len(sizes) + 3))  # a gradient and a run came before
        by_attribution, at_random = torch.stack(scores).view(2, len(sizes), -1)
        return DeletionRecord(**deletion(whole, empty, by_attribution, at_random, sizes).to_dict())

    def _attributions(self, transcoder: "SAE[Any]") -> tuple[Tensor, Tensor, Tensor]:
        """Return the activations, a * ds/da, and s of each prompt."""
        leaves: list[Tensor] = []

        def as_leaf(acts: Tensor) -> Tensor:
            leaves.append((acts.detach() * self.kept[..., None]).requires_grad_())
            return leaves[0]

        with torch.enable_grad():
            score = self._last_token(transcoder, as_leaf)
            (gradient,) = torch.autograd.grad(score.sum(), leaves[0])
        acts = leaves[0].detach()
        return acts, acts * gradient, score.detach()

    @torch.no_grad()
    def _score(self, transcoder: "SAE[Any]", change: Change) -> Float[Tensor, " prompts"]:
        def changed(acts: Tensor) -> Tensor:
            return change(acts * self.kept[..., None])

        return self._last_token(transcoder, changed)

    def _last_token(self, transcoder: "SAE[Any]", of_acts: Change) -> Float[Tensor, " prompts"]:
        """Compute log p(last token) of each prompt, with changed activations."""
        seen = run_spliced(self.hooks, self.layer, self.tokens, self.kept, transcoder, of_acts=of_acts, last=2)
        return -cross_entropy(seen.logits, self.tokens[:, -2:])[:, -1]


def _without(places: Int[Tensor, "prompts m"]) -> Change:
    """Zero these places of the flattened activations."""
    return lambda acts: acts.flatten(1).scatter(1, places, 0.0).view_as(acts)


def _one_of(row: Bool[Tensor, " pos"], generator: torch.Generator) -> int:
    places = row.nonzero().flatten()
    return int(places[torch.randint(len(places), (1,), generator=generator)])
