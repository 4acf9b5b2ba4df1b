"""Measure transcoders of one layer on held-out prompts, prompt by prompt."""

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from faithfulness_plugin.errors import UsageError
from faithfulness_plugin.jacobian.probes import difference, pair, rademacher
from faithfulness_plugin.language_model.evaluator import Comparison, TranscoderEvaluator
from faithfulness_plugin.language_model.layer_rows import RELATIVE_TO_NOTHING, Rows, to_digits
from faithfulness_plugin.language_model.spliced_loss import SplicedByPrompt
from faithfulness_plugin.layers.declared_hooks import block_of
from faithfulness_plugin.layers.hooked_layer import HookedLayer
from faithfulness_plugin.layers.hooks import Hooks
from faithfulness_plugin.measure.config import HeldOutConfig
from faithfulness_plugin.measure.schema import ROLES, HeldOutRecord, LayerRecord, PassageRecord, Role, SplicedRecord
from faithfulness_plugin.metrics.jacobian_floor import JacobianEnergies, jacobian_energies
from faithfulness_plugin.metrics.passage_memorization import RARE, passage_memorization
from faithfulness_plugin.metrics.response import StepResponses, changes, compare_changes
from faithfulness_plugin.metrics.result import DIRECTIONS, Directions, mean_cosine
from faithfulness_plugin.seeds import derived_seed
from faithfulness_plugin.store.fill import rows_at
from faithfulness_plugin.store.left_out import LeftOut

if TYPE_CHECKING:  # at run time a type is no reason to load SAELens
    from sae_lens import SAE

OWN: Role = "transcoder"
JACOBIANS, FLOOR, STEPS, SPLICED = "outputs and Jacobians", "the Jacobian's floor", "steps", "in the layer's place"
"""Parts of a measurement, in the words of its progress."""
CARRIES = 0.01
"""The part of the passage's output from which on a feature is listed that is not the passage's own."""


class HeldOut:
    """Measures transcoders of one layer on held-out prompts; keeps everything that no transcoder changes.

    Args:
        hooks: the model's.
        layer: the layer that transcoders replace.
        tokens: the held-out prompts; the spliced model is run on the first `config.spliced_prompts`.
        config: numbers of rows, and lengths of steps.
        exclude: the rule by which rows are left out.
        passage: a repeated prompt at which memorization is measured; None measures none.
    """

    def __init__(
        self,
        hooks: Hooks,
        layer: HookedLayer,
        tokens: Int[Tensor, "prompts pos"],
        config: HeldOutConfig,
        exclude: LeftOut,
        passage: Int[Tensor, "1 passage_pos"] | None = None,
    ) -> None:
        self.layer, self.config = layer, config
        self.block = block_of(layer.hook_in) or 0
        self.evaluator = TranscoderEvaluator(
            hooks,
            dict.fromkeys(ROLES, layer),
            tokens.to(hooks.device),
            exclude=exclude,
            batch_size=config.prompts_per_pass,
            jacobian_rows=config.jacobian_rows,
            by_prompt=True,
            spliced_prompts=config.spliced_prompts,
        )
        (self.at,) = self.evaluator.at.values()
        self._beside: tuple[Tensor, JacobianEnergies] | None = None  # of the last skip connection
        self.rows, self.for_jacobians = self.at.rows, self.evaluator.for_jacobians(OWN)
        exclude = self.at.kept.exclude
        self.passage = None if passage is None else rows_at(hooks, {layer.hook_in}, passage, exclude)[layer.hook_in]

    @cached_property
    def energies(self) -> JacobianEnergies:
        """The energies that give the floor, for transcoders without skip connection."""
        return jacobian_energies(self.layer, self.for_jacobians.x, among=self.rows.x)

    def energies_beside(self, W_skip: Float[Tensor, "d_out d_in"] | None) -> JacobianEnergies:
        """Compute the energies that give the floor, for transcoders with a skip connection.

        Args:
            W_skip: the skip connection; None or zeros for none.

        Returns:
            The energies of J_f - W_skip.
        """
        if W_skip is None or not W_skip.any():
            return self.energies
        if self._beside is None or not torch.equal(self._beside[0], W_skip):
            found = jacobian_energies(self.layer, self.for_jacobians.x, W_skip, among=self.rows.x)
            self._beside = W_skip.detach().clone(), found
        return self._beside[1]

    @torch.no_grad()
    def floor(self, transcoder: "SAE[Any]", energies: JacobianEnergies) -> dict[Directions, list[float]]:
        """Compute the least Jacobian error that the transcoder's numbers of active features allow.

        Args:
            transcoder: gives the numbers.
            energies: of J_f without a skip connection, or beside one.

        Returns:
            Sums by prompt for each kind of directions.
        """
        at = self.for_jacobians
        active = (transcoder.encode(at.x) > 0).sum(-1)
        return {d: at.by_prompt(energies.beyond(d, active)) for d in DIRECTIONS}

    @cached_property
    def for_responses(self) -> Rows:
        """The rows for response curves."""
        return self.rows.spread_by_prompt(self.config.response_rows)

    @cached_property
    def directions(self) -> Mapping[Directions, Float[Tensor, "rows d_in"]]:
        """The directions of steps, shared by all transcoders. Isotropic ones have the rms coordinate as entries."""
        x = self.for_responses.x
        generator = torch.Generator(x.device).manual_seed(derived_seed(self.config.seed, f"responses {self.block}"))
        rms = x.square().mean().sqrt()
        isotropic = rms * rademacher(x, 1, generator)[0]
        return {"isotropic": isotropic, "data": pair(x, 1, generator)[0], "difference": difference(x, 1, generator)[0]}

    @cached_property
    def _moves(self) -> dict[Directions, list[Float[Tensor, "rows d_out"]]]:
        """What each step changes in the layer's output."""
        x, y = self.for_responses.x, self.layer(self.for_responses.x)
        return {d: changes(self.layer, x, v, self.config.distances, y) for d, v in self.directions.items()}

    def spliced(
        self, transcoders: "Mapping[Role, SAE[Any]]", on_run: Callable[[float], None] = lambda _: None
    ) -> dict[Role, SplicedByPrompt]:
        """Run the model with each transcoder in the layer's place; they share the runs without.

        Args:
            transcoders: a transcoder and its references.
            on_run: called after each run of the model, with the share of them that is done.

        Returns:
            What each costs at every prompt.
        """
        found = self.evaluator.spliced_by_prompt({str(role): t for role, t in transcoders.items()}, on_run)
        return {role: found[role] for role in transcoders}

    def compare(self, transcoder: "SAE[Any]") -> Comparison:
        """Compare a transcoder's outputs and whole Jacobians with the layer's, row by row.

        Args:
            transcoder: in `eval` mode.

        Returns:
            Squared errors and active features of each row, and Jacobians at some.
        """
        return self.evaluator.compare(OWN, transcoder)

    @torch.no_grad()
    def layer_record(self, found: Comparison) -> LayerRecord:
        """Measure the layer itself: the denominators of relative errors.

        Args:
            found: any transcoder of the layer, compared with it.

        Returns:
            Sums by prompt, and cross-entropies in nats a token.

        Raises:
            UsageError: a layer to which errors cannot be relative.
        """
        jacobian: dict[Directions, Tensor] = {d: of.layer for d, of in found.jacobians.along.items()}
        response: dict[Directions, list[Tensor]] = {
            d: [D_f.square().sum(-1) for D_f in self._moves[d]] for d in DIRECTIONS
        }
        self._require_responses(jacobian, response)
        ce_clean, ce_zero = self.evaluator.without(OWN)
        return LayerRecord(
            block=self.block,
            hook_in=self.layer.hook_in,
            hook_out=self.layer.hook_out,
            variance=self.rows.by_prompt(self.at.variance.sum(-1)),
            jacobian={d: self.for_jacobians.by_prompt(jacobian[d]) for d in DIRECTIONS},
            response={d: [self.for_responses.by_prompt(of) for of in response[d]] for d in DIRECTIONS},
            ce_clean=ce_clean,
            ce_zero=ce_zero,
        )

    def _require_responses(self, jacobian: Mapping[Directions, Tensor], response: Mapping[Directions, Any]) -> None:
        for d in DIRECTIONS:
            for what, sizes in {"derivative": [jacobian[d]], "response to a step": response[d]}.items():
                if not all(bool((of > 0).any()) for of in sizes):
                    raise UsageError(
                        f"{self.at.named} has no {what} beyond rounding in {d} directions at any row: "
                        f"{RELATIVE_TO_NOTHING}"
                    )

    @torch.no_grad()
    def measure(
        self,
        transcoder: "SAE[Any]",
        beside: Float[Tensor, "d_out d_in"] | None = None,
        *,
        found: Comparison | None = None,
        spliced: SplicedByPrompt | None = None,
        begin: Callable[[str], None] = lambda _: None,
    ) -> HeldOutRecord:
        """Measure a transcoder.

        Args:
            transcoder: in `eval` mode.
            beside: the skip connection that the floor of a transcoder with one supposes; None for its own, whose
                floor costs a decomposition of every row's Jacobian.
            found: what `compare` returned for it, where it was called.
            spliced: what `spliced` returned for it, likewise.
            begin: called with the name of each part of the work before it.

        Returns:
            Sums by prompt, cosines, and the spliced model's cross-entropy and KL in nats a token.
        """
        if found is None:
            begin(JACOBIANS)
            found = self.compare(transcoder)
        begin(FLOOR)
        floor = self._own_floor(transcoder, found, beside)
        begin(STEPS)
        responses = self._responses(transcoder)
        if spliced is None:
            begin(SPLICED)
            spliced = self.spliced({OWN: transcoder})[OWN]
        at, by_prompt, n_predicted = (
            self.for_jacobians,
            self.for_responses.by_prompt,
            self.evaluator.tokens.shape[1] - 1,
        )
        nats = spliced.per_token(n_predicted)
        sums = {name: to_digits(of.tolist()) for name, of in spliced._asdict().items()}
        return HeldOutRecord(
            error=self.rows.by_prompt(found.squared_error.sum(-1)),
            l0=found.l0,
            dead_fraction=found.dead_fraction,
            jacobian_error={d: at.by_prompt(of.squared_error) for d, of in found.jacobians.along.items()},
            jacobian_cosine={d: mean_cosine(of.cosine, of.layer) for d, of in found.jacobians.along.items()},
            floor=floor,
            response_error={d: [by_prompt(a.squared_error) for a in responses[d]] for d in DIRECTIONS},
            response_cosine={d: [mean_cosine(a.cosine, a.layer) for a in responses[d]] for d in DIRECTIONS},
            ce=nats.ce,
            ce_recovered=nats.ce_recovered,
            kl=nats.kl,
            passage=None if self.passage is None else self._at_passage(transcoder, self.passage),
            spliced=SplicedRecord(tokens=n_predicted, **sums),
        )

    def _own_floor(
        self, transcoder: "SAE[Any]", found: Comparison, beside: Tensor | None
    ) -> dict[Directions, list[float]]:
        """Compute the transcoder's floor; without features and skip connection that is all of J_f, undecomposed."""
        W_skip = getattr(transcoder, "W_skip", None)
        W_skip = W_skip if W_skip is None or beside is None else beside
        if not found.active.any() and (W_skip is None or not W_skip.any()):
            return {d: self.for_jacobians.by_prompt(of.layer) for d, of in found.jacobians.along.items()}
        return self.floor(transcoder, self.energies_beside(W_skip))

    def _responses(self, transcoder: "SAE[Any]") -> dict[Directions, list[StepResponses]]:
        x, t = self.for_responses.x, transcoder(self.for_responses.x)
        return {
            d: compare_changes(self._moves[d], changes(transcoder, x, v, self.config.distances, t))
            for d, v in self.directions.items()
        }

    def _at_passage(self, transcoder: "SAE[Any]", passage: Tensor) -> PassageRecord:
        found = passage_memorization(transcoder, self.layer, passage, self.rows.x)
        each = enumerate(zip(found.carried, found.rate_elsewhere, strict=True))
        listed = [i for i, (carried, rate) in each if abs(carried) >= CARRIES or rate <= RARE]
        y, mean = self.layer(passage), self.at.outputs.mean(0)
        return PassageRecord(
            share=found.share,
            own_features=found.own_features,
            fvu=((transcoder(passage) - y).square().sum() / (y - mean).square().sum()).item(),
            rate_elsewhere=[found.rate_elsewhere[i] for i in listed],
            carried=[found.carried[i] for i in listed],
        )
