"""How faithful a transcoder is inside its language model: on held-out prompts, by itself and spliced in."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from faithfulness_plugin.display import line
from faithfulness_plugin.errors import UsageError
from faithfulness_plugin.language_model.layer_rows import LayerRows, Rows
from faithfulness_plugin.language_model.rows import RowsRecord
from faithfulness_plugin.language_model.spliced_loss import Spliced, SplicedByPrompt
from faithfulness_plugin.layers.hooked_layer import HookedLayer
from faithfulness_plugin.layers.hooks import Hook, Hooks
from faithfulness_plugin.layers.spliced import Site
from faithfulness_plugin.metrics.jacobian_error import ByDirections, average_products, jacobian_products
from faithfulness_plugin.metrics.next_token import NextToken, cross_entropy
from faithfulness_plugin.metrics.result import check_same_shape
from faithfulness_plugin.store.kept_rows import kept_rows
from faithfulness_plugin.store.left_out import LeftOut
from faithfulness_plugin.transcoders.skip import output_of

if TYPE_CHECKING:  # at run time a type is no reason to load SAELens
    from sae_lens import SAE

Entries = dict[str, float | None]
Place = tuple[str, str]
"""The hooks between which a layer stands."""
ROWS_AT_ONCE = 1024


@dataclass(frozen=True)
class Comparison:
    """A transcoder beside its layer, row by row."""

    squared_error: Float[Tensor, "rows d_out"]
    """(t - f)^2, coordinate by coordinate."""
    active: Bool[Tensor, "rows d_sae"]
    """Which features fire."""
    jacobians: ByDirections
    """At the rows for Jacobians alone."""

    @property
    def l0(self) -> float:
        """Active features a row."""
        return self.active.sum(-1).float().mean().item()

    @property
    def dead_fraction(self) -> float:
        """The share of features that never fire."""
        return (~self.active.any(0)).float().mean().item()


class TranscoderEvaluator:
    """Evaluates transcoders on prompts that they were not trained on.

    Args:
        hooks: the model's.
        layers: by transcoder's name, the layer that it replaces.
        tokens: the prompts.
        exclude: token ids (and positions outside `positions`) that transcoders are not trained on: left to the layer;
            or a `LeftOut`, which leaves out first positions and rows of extreme norm as well. Its factor of norms is
            fitted to these prompts, layer by layer, unless it was fitted before. None keeps all.
        positions: SAELens's `seqpos_slice`.
        batch_size: prompts that the model is run on at a time.
        jacobian_rows: rows for whole Jacobians, evenly spread over all; with `by_prompt` over each prompt.
        by_prompt: whether rows are chosen and read prompt by prompt, for sums over the rows of each.
        spliced_prompts: of the prompts, those that the spliced model is run on; None for all.
        lock: held while the model runs; for one that another thread runs too.

    Entries of each transcoder: "fvu", "l0", "dead_fraction"; "jacobian_error" and "jacobian_cosine", isotropic, and
    "jacobian_error_data" and "jacobian_cosine_data" in directions in which the rows vary; "ce" and "kl" with the
    transcoder in the layer's place, "ce_clean" without, "ce_zero" with zeros there, "ce_recovered"
    (metrics.next_token); in nats a token.

    Instances are SAELens evaluators too: `runner.evaluator = TranscoderEvaluator(...)`, for one transcoder.
    """

    def __init__(
        self,
        hooks: Hooks,
        layers: Mapping[str, HookedLayer],
        tokens: Int[Tensor, "prompts pos"],
        *,
        exclude: Tensor | LeftOut | None = None,
        positions: slice = slice(None),
        batch_size: int = 8,
        jacobian_rows: int = 128,
        by_prompt: bool = False,
        spliced_prompts: int | None = None,
        lock: AbstractContextManager[Any] | None = None,
    ) -> None:
        self.hooks, self.layers, self.tokens = hooks, dict(layers), tokens[:spliced_prompts]
        self.batch_size, self.jacobian_rows, self.by_prompt = batch_size, jacobian_rows, by_prompt
        self.lock: AbstractContextManager[Any] = nullcontext() if lock is None else lock
        hooks.require_tokens(tokens)
        rule, inside = LeftOut.of(exclude), torch.zeros_like(tokens, dtype=torch.bool)
        inside[:, positions] = True
        if not (rule.places(tokens) & inside).any():
            raise UsageError(
                "every held-out token is excluded: hold out more prompts (n_eval_batches), or leave out less"
            )
        self.at: dict[Place, LayerRows] = {}
        """What no transcoder changes, by the hooks between which a layer stands."""
        for layer in self.layers.values():
            if _place_of(layer) not in self.at:
                found = kept_rows(hooks, layer, tokens, rule, batch_size=batch_size)
                found = replace(found, mask=found.mask & inside)
                self.at[_place_of(layer)] = LayerRows(hooks, layer, tokens, found, 1 if by_prompt else batch_size)
        self._zero: dict[Place, Tensor] = {}
        self._clean = torch.zeros(0)

    def __repr__(self) -> str:
        layers = {name: f"{layer.hook_in} -> {layer.hook_out}" for name, layer in self.layers.items()}
        return line("TranscoderEvaluator", {"layers": layers, "tokens": self.tokens})

    def __call__(self, sae: Any, data_provider: Any, activation_scaler: Any) -> Entries:
        """Take SAELens's arguments; the prompts are the evaluator's own."""
        del data_provider, activation_scaler
        (name,) = self.layers
        return self.evaluate({name: sae})[name]

    @torch.no_grad()
    def evaluate(self, transcoders: "Mapping[str, SAE[Any]]") -> dict[str, Entries]:
        """Evaluate transcoders as the functions that they export (`eval` mode); their modes are restored afterwards.

        Args:
            transcoders: by the names of `layers`.

        Returns:
            The entries of each by name.
        """
        modes = {name: transcoder.training for name, transcoder in transcoders.items()}
        for transcoder in transcoders.values():
            transcoder.eval()
        try:
            spliced = self.spliced(transcoders)
            return {name: self._alone(name, t) | spliced[name]._asdict() for name, t in transcoders.items()}
        finally:
            for name, transcoder in transcoders.items():
                transcoder.train(modes[name])

    def for_jacobians(self, name: str) -> Rows:
        """Choose the rows at which whole Jacobians are compared.

        Args:
            name: the transcoder's.

        Returns:
            Evenly spread rows of its layer.
        """
        rows = self.at[_place_of(self.layers[name])].rows
        return rows.spread_by_prompt(self.jacobian_rows) if self.by_prompt else rows.spread(self.jacobian_rows)

    def rows_records(self) -> list[RowsRecord]:
        """Record for each layer which rows count, and say it on stderr; warn where a few of them make most of the
        variance.

        Returns:
            One record a layer.
        """
        with self.lock:
            return [of.record() for of in self.at.values()]

    @torch.no_grad()
    def compare(self, name: str, transcoder: "SAE[Any]") -> Comparison:
        """Compare a transcoder with its layer, row by row.

        Args:
            name: says which layer.
            transcoder: is compared in its own mode.

        Returns:
            Squared errors and active features of each row, and Jacobians at some.
        """
        at, some, active, squared_error = self.at[_place_of(self.layers[name])], self.for_jacobians(name), [], []
        # 1,024 rows at a time: x [1024, d_in], feature_acts [1024, d_sae], t and y [1024, d_out]
        for x, y in zip(at.rows.x.split(ROWS_AT_ONCE), at.outputs.split(ROWS_AT_ONCE), strict=True):
            feature_acts = transcoder.encode(x)
            t = output_of(transcoder, x, feature_acts)
            check_same_shape(t, y)
            active.append(feature_acts > 0)
            squared_error.append((t - y).square())
        among = at.rows.x if self.by_prompt else some.x
        # whole Jacobians at some rows; prompt by prompt, along directions in which all rows vary
        jacobians = jacobian_products(transcoder, at.layer, some.x, among=among)
        return Comparison(torch.cat(squared_error), torch.cat(active), jacobians)

    def _alone(self, name: str, transcoder: "SAE[Any]") -> Entries:
        found = self.compare(name, transcoder)
        jacobian = average_products(found.jacobians)
        return {
            "fvu": (found.squared_error.sum() / self.at[_place_of(self.layers[name])].variance.sum()).item(),
            "l0": found.l0,
            "dead_fraction": found.dead_fraction,
            "jacobian_error": jacobian.relative_error,
            "jacobian_cosine": jacobian.cosine,
            "jacobian_error_data": jacobian.relative_error_data,
            "jacobian_cosine_data": jacobian.cosine_data,
        }

    @torch.no_grad()
    def spliced_by_prompt(
        self, transcoders: "Mapping[str, SAE[Any]]", on_run: Callable[[float], None] = lambda _: None
    ) -> dict[str, SplicedByPrompt]:
        """Run the model with each transcoder in its layer's place, one at a time. They share the runs without.

        Args:
            transcoders: by the names of `layers`, in their own modes.
            on_run: called after each run of the model, with the share of them that is done.

        Returns:
            What each costs at every prompt, by name.
        """
        ce: dict[str, list[Tensor]] = {name: [] for name in transcoders}
        kl: dict[str, list[Tensor]] = {name: [] for name in transcoders}
        clean: list[Tensor] = []
        zero: dict[Place, list[Tensor]] = {} if self._zero else {place: [] for place in self.at}
        n_runs, done = -(-len(self.tokens) // self.batch_size) * (1 + len(zero) + len(transcoders)), 0

        def run(hooks: Mapping[str, Hook], tokens: Tensor) -> Tensor:
            nonlocal done
            logits = self.hooks.run(tokens, hooks)
            done += 1
            on_run(done / n_runs)
            return logits

        with self.lock:
            for of in self.at.values():
                of.outputs  # noqa: B018  reads them while the lock is held
            for tokens, kept in self._batches():
                own = NextToken(run({}, tokens), tokens)
                clean.append(own.cross_entropy.double().sum(-1))
                for place, found in zero.items():
                    # mask [batch, pos] -> [batch, pos, 1]: zeros at the tokens that count, y elsewhere
                    write_zeros = partial(torch.where, kept[place][..., None], 0)
                    found.append(cross_entropy(run({place[1]: write_zeros}, tokens), tokens).double().sum(-1))
                for name, transcoder in transcoders.items():
                    layer = self.layers[name]
                    site = Site(layer, kept[_place_of(layer)], transcoder)
                    of_tokens = own.compare(run(site.hooks([]), tokens))
                    for sums, values in zip((ce, kl), of_tokens, strict=True):
                        sums[name].append(values.double().sum(-1))
        self._clean = torch.cat(clean)
        self._zero |= {place: torch.cat(parts) for place, parts in zero.items()}
        return {
            name: SplicedByPrompt(torch.cat(ce[name]), self._clean, self._zero_of(name), torch.cat(kl[name]))
            for name in transcoders
        }

    def _zero_of(self, name: str) -> Tensor:
        return self._zero[_place_of(self.layers[name])]

    def without(self, name: str) -> tuple[float, float]:
        """Return what the model loses without a transcoder; it is run for it, unless it was before.

        Args:
            name: the transcoder's, which says the layer.

        Returns:
            The cross-entropy with the layer itself, and with zeros in its place, in nats a token.
        """
        if not self._zero:
            self.spliced_by_prompt({})
        n = (self.tokens.shape[1] - 1) * len(self.tokens)
        return self._clean.sum().item() / n, self._zero_of(name).sum().item() / n

    def spliced(self, transcoders: "Mapping[str, SAE[Any]]") -> dict[str, Spliced]:
        """Run the model with each transcoder in its layer's place, one at a time.

        Args:
            transcoders: by the names of `layers`, in their own modes.

        Returns:
            What each costs, by name.
        """
        found = self.spliced_by_prompt(transcoders)
        return {name: of.per_token(self.tokens.shape[1] - 1) for name, of in found.items()}

    def _batches(self) -> Iterator[tuple[Tensor, dict[Place, Tensor]]]:
        for start in range(0, len(self.tokens), self.batch_size):
            part = slice(start, min(start + self.batch_size, len(self.tokens)))
            yield self.tokens[part], {place: of.kept.mask[part] for place, of in self.at.items()}


def _place_of(layer: HookedLayer) -> Place:
    return layer.hook_in, layer.hook_out
