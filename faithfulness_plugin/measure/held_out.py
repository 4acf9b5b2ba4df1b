"""Measure transcoders of one layer on held-out prompts."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor

from faithfulness_plugin.display import short_repr
from faithfulness_plugin.errors import UsageError
from faithfulness_plugin.jacobian.exact import JacobianProducts
from faithfulness_plugin.jacobian.probes import difference, pair, rademacher
from faithfulness_plugin.language_model.evaluator import TranscoderEvaluator
from faithfulness_plugin.language_model.rows import RowsRecord, said_rows
from faithfulness_plugin.layers.declared_hooks import block_of
from faithfulness_plugin.layers.derivatives import layer_output
from faithfulness_plugin.layers.hooked_layer import HookedLayer
from faithfulness_plugin.layers.hooks import Hooks
from faithfulness_plugin.measure.config import HeldOutConfig
from faithfulness_plugin.measure.schema import (
    DIRECTIONS,
    ByPrompt,
    Directions,
    HeldOutRecord,
    LayerRecord,
    PassageRecord,
)
from faithfulness_plugin.metrics.jacobian_error import ByDirections, jacobian_products
from faithfulness_plugin.metrics.jacobian_floor import JacobianEnergies, jacobian_energies
from faithfulness_plugin.metrics.passage_memorization import RARE, passage_memorization
from faithfulness_plugin.metrics.response import StepResponses, finite_differences
from faithfulness_plugin.metrics.variance_concentration import variance_concentration
from faithfulness_plugin.seeds import derived_seed
from faithfulness_plugin.store.fill import rows_at, rows_kept
from faithfulness_plugin.store.kept_rows import kept_rows
from faithfulness_plugin.store.left_out import LeftOut
from faithfulness_plugin.transcoders.skip import output_of

CARRIES = 0.01
"""The part of the passage's output from which on a feature is listed that is not the passage's own."""
ROWS_AT_ONCE = 1024


@dataclass(frozen=True)
class Rows:
    """Inputs of a layer, with the prompt that each is from."""

    x: Float[Tensor, "rows d_in"]
    prompt: Int[Tensor, " rows"]
    n_prompts: int

    __repr__ = short_repr

    def by_prompt(self, values: Float[Tensor, " rows"]) -> ByPrompt:
        """Sum over the rows of each prompt, to six digits."""
        sums = torch.zeros(self.n_prompts, dtype=torch.float64, device=values.device)
        return [float(f"{v:.6g}") for v in sums.index_add(0, self.prompt, values.double()).tolist()]

    def some(self, a_prompt: int) -> "Rows":
        """Take this many rows of each prompt, evenly spread."""
        places = [(self.prompt == prompt).nonzero().flatten() for prompt in range(self.n_prompts)]
        taken = torch.cat([p[torch.linspace(0, len(p) - 1, min(a_prompt, len(p))).long()] for p in places])
        return Rows(self.x[taken], self.prompt[taken], self.n_prompts)


class HeldOut:
    """Measures transcoders of one layer on held-out prompts; keeps everything that no transcoder changes.

    Args:
        hooks: the model's.
        layer: the layer that transcoders replace.
        tokens: [prompts, pos]; the spliced model is run on the first `config.spliced_prompts`.
        exclude: the rule by which rows are left out.
        passage: a repeated prompt [1, pos] at which memorization is measured.
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
        self.layer, self.config, name = layer, config, layer.hook_in
        self.block = block_of(name) or 0
        self.kept = kept_rows(hooks, layer, tokens, exclude, batch_size=config.prompts_per_pass)
        each = zip(tokens, self.kept.mask, strict=True)
        parts = [rows_kept(hooks, {name}, prompt[None], mask[None])[name] for prompt, mask in each]
        prompt = torch.repeat_interleave(torch.tensor([len(rows) for rows in parts], device=parts[0].device))
        self.rows = Rows(torch.cat(parts), prompt, len(parts))
        self.passage = None if passage is None else rows_at(hooks, {name}, passage, self.kept.exclude)[name]
        self.tokens = tokens[: config.spliced_prompts].to(hooks.device)
        self.evaluator = TranscoderEvaluator(
            hooks, {"t": layer}, self.tokens, exclude=self.kept.exclude, batch_size=config.prompts_per_pass
        )

    @cached_property
    def outputs(self) -> Float[Tensor, "rows d_out"]:
        """f at every row."""
        return layer_output(self.layer, self.rows.x)

    def rows_record(self) -> RowsRecord:
        """Record which rows count, and say it; warn where a few of them make most of the variance."""
        varies = bool((self.outputs != self.outputs[0]).any())
        spread = variance_concentration(self.outputs) if varies else None
        return said_rows(self.layer.hook_in, self.kept.counts, spread)

    @cached_property
    def for_jacobians(self) -> Rows:
        """The rows for whole Jacobians."""
        return self.rows.some(self.config.jacobian_rows)

    @cached_property
    def energies(self) -> JacobianEnergies:
        """The energies that give the floor, for transcoders without skip connection."""
        return jacobian_energies(self.layer, self.for_jacobians.x, among=self.rows.x)

    @cached_property
    def for_responses(self) -> Rows:
        """The rows for response curves."""
        return self.rows.some(self.config.response_rows)

    @cached_property
    def directions(self) -> Mapping[Directions, Float[Tensor, "rows d_in"]]:
        """The directions of steps, shared by all transcoders. Isotropic ones have the rms coordinate as entries."""
        x = self.for_responses.x
        generator = torch.Generator(x.device).manual_seed(derived_seed(self.config.seed, f"responses {self.block}"))
        rms = x.square().mean().sqrt()
        isotropic = rms * rademacher(x, 1, generator)[0]
        return {"isotropic": isotropic, "data": pair(x, 1, generator)[0], "difference": difference(x, 1, generator)[0]}

    @torch.no_grad()
    def layer_record(self, transcoder: Any) -> LayerRecord:
        """Measure the layer itself.

        Args:
            transcoder: any transcoder of the layer.

        Raises:
            ValueError: a layer to which errors cannot be relative.
        """
        y = self.outputs
        products, responses = self._jacobians(transcoder), self._responses(transcoder)
        spliced = self.evaluator.spliced({"t": transcoder})["t"]
        self._require_responses(products, responses)
        return LayerRecord(
            block=self.block,
            hook_in=self.layer.hook_in,
            hook_out=self.layer.hook_out,
            variance=self.rows.by_prompt((y - y.mean(0)).square().sum(-1)),
            jacobian={d: self.for_jacobians.by_prompt(_along(products, d).layer) for d in DIRECTIONS},
            response={d: [self.for_responses.by_prompt(a.layer) for a in responses[d]] for d in DIRECTIONS},
            ce_clean=cast(float, spliced["ce_clean"]),
            ce_zero=cast(float, spliced["ce_zero"]),
        )

    def _require_responses(self, products: ByDirections, responses: Mapping[Directions, list[StepResponses]]) -> None:
        where, y = f"the layer from {self.layer.hook_in} to {self.layer.hook_out}", self.outputs
        instead = "relative errors are undefined: choose another layer, or other text"
        if not bool((y != y[0]).any()):
            raise UsageError(f"{where} puts out the same at all {len(y):,} rows, so that {instead}")
        for d in DIRECTIONS:
            moves = {"derivative": [_along(products, d).layer], "answer to a step": [a.layer for a in responses[d]]}
            for what, sizes in moves.items():
                if not all(bool((of > 0).any()) for of in sizes):
                    raise UsageError(f"{where} has no {what} beyond rounding in {d} directions at any row: {instead}")

    @torch.no_grad()
    def measure(self, transcoder: Any) -> HeldOutRecord:
        """Measure a transcoder, which is in `eval` mode."""
        fired, t = [], []
        for rows in self.rows.x.split(ROWS_AT_ONCE):
            feature_acts = transcoder.encode(rows)
            fired.append(feature_acts > 0)
            t.append(output_of(transcoder, rows, feature_acts))
        acts = torch.cat(fired)
        products, jacobians = self._jacobians(transcoder), self.for_jacobians
        W_skip, at = getattr(transcoder, "W_skip", None), jacobians.x
        energies = self.energies if W_skip is None else jacobian_energies(self.layer, at, W_skip, among=self.rows.x)
        active = (transcoder.encode(at) > 0).sum(-1)
        responses, by_prompt = self._responses(transcoder), self.for_responses.by_prompt
        spliced = self.evaluator.spliced({"t": transcoder})["t"]
        return HeldOutRecord(
            error=self.rows.by_prompt((torch.cat(t) - self.outputs).square().sum(-1)),
            l0=acts.sum(-1).float().mean().item(),
            dead_fraction=(~acts.any(0)).float().mean().item(),
            jacobian_error={d: jacobians.by_prompt(_along(products, d).squared_error) for d in DIRECTIONS},
            jacobian_cosine={d: _mean_cosine(_along(products, d)) for d in DIRECTIONS},
            floor={d: jacobians.by_prompt(energies.beyond(d, active)) for d in DIRECTIONS},
            response_error={d: [by_prompt(a.squared_error) for a in responses[d]] for d in DIRECTIONS},
            response_cosine={d: [_mean_cosine(a) for a in responses[d]] for d in DIRECTIONS},
            ce=cast(float, spliced["ce"]),
            ce_recovered=spliced["ce_recovered"],
            kl=cast(float, spliced["kl"]),
            passage=None if self.passage is None else self._at_passage(transcoder, self.passage),
        )

    def _jacobians(self, transcoder: Any) -> ByDirections:
        """At some rows, along directions in which all of them vary: the covariance of some would lack directions."""
        return jacobian_products(transcoder, self.layer, self.for_jacobians.x, among=self.rows.x)

    def _responses(self, transcoder: Any) -> dict[Directions, list[StepResponses]]:
        x, distances = self.for_responses.x, self.config.distances
        return {d: finite_differences(transcoder, self.layer, x, v, distances) for d, v in self.directions.items()}

    def _at_passage(self, transcoder: Any, passage: Tensor) -> PassageRecord:
        found = passage_memorization(transcoder, self.layer, passage, self.rows.x)
        each = enumerate(zip(found.carried, found.rate_elsewhere, strict=True))
        listed = [i for i, (carried, rate) in each if abs(carried) >= CARRIES or rate <= RARE]
        y, mean = self.layer(passage), self.outputs.mean(0)
        return PassageRecord(
            share=found.share,
            own_features=found.own_features,
            fvu=((transcoder(passage) - y).square().sum() / (y - mean).square().sum()).item(),
            rate_elsewhere=[found.rate_elsewhere[i] for i in listed],
            carried=[found.carried[i] for i in listed],
        )


def _along(products: ByDirections, directions: Directions) -> JacobianProducts:
    return getattr(products, directions)


def _mean_cosine(of: JacobianProducts | StepResponses) -> float:
    """The mean over rows where the layer moves."""
    return of.cosine[of.layer > 0].mean().item()
