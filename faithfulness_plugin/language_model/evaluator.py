"""How faithful a transcoder is inside its language model: on held-out prompts, by itself and spliced in."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from faithfulness_plugin.display import line
from faithfulness_plugin.layers.hooked_layer import HookedLayer
from faithfulness_plugin.layers.hooks import Hook, Hooks, read_and_write
from faithfulness_plugin.metrics.jacobian_error import jacobian_error
from faithfulness_plugin.metrics.next_token import ce_recovered, cross_entropy, kl_divergence
from faithfulness_plugin.metrics.reconstruction import reconstruction
from faithfulness_plugin.metrics.variance_concentration import VarianceConcentration, variance_concentration
from faithfulness_plugin.store.kept_rows import KeptRows, kept_rows
from faithfulness_plugin.store.left_out import LeftOut

Entries = dict[str, float | None]
Place = tuple[str, str]
"""The hooks between which a layer stands."""


class TranscoderEvaluator:
    """Evaluates transcoders on prompts that they were not trained on.

    Args:
        hooks: the model's.
        layers: by transcoder's name, the layer that it replaces.
        tokens: [prompts, pos].
        exclude: token ids (and positions outside `positions`) that transcoders are not trained on: left to the layer;
            or a `LeftOut`, which leaves out first positions and rows of extreme norm as well. Its factor of norms is
            fitted to these prompts, layer by layer, unless it was fitted before.
        positions: SAELens's `seqpos_slice`.
        batch_size: prompts that the model is run on at a time.
        jacobian_rows: rows for whole Jacobians.
        lock: held while the model runs; for one that another thread runs too.

    Entries of each transcoder: "fvu", "l0", "dead_fraction"; "jacobian_error" and "jacobian_cosine", isotropic, and
    "jacobian_error_data" and "jacobian_cosine_data" in directions in which the rows vary; "ce" and "kl" with the
    transcoder in the layer's place, "ce_clean" without, "ce_zero" with zeros there, "ce_recovered"
    (metrics.next_token); in nats.

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
        lock: AbstractContextManager[Any] | None = None,
    ) -> None:
        self.hooks, self.layers, self.tokens = hooks, dict(layers), tokens
        self.batch_size, self.jacobian_rows = batch_size, jacobian_rows
        self.lock: AbstractContextManager[Any] = nullcontext() if lock is None else lock
        hooks.require_tokens(tokens)
        rule, inside = LeftOut.of(exclude), torch.zeros_like(tokens, dtype=torch.bool)
        inside[:, positions] = True
        if not (rule.places(tokens) & inside).any():
            raise ValueError("every held-out token is excluded: hold out more prompts (n_eval_batches)")
        self.kept: dict[Place, KeptRows] = {}
        """Between which hooks, which tokens count: all layers alike, unless norms are asked for."""
        for layer in self.layers.values():
            if _place(layer) not in self.kept:
                found = kept_rows(hooks, layer, tokens, rule, batch_size=batch_size)
                self.kept[_place(layer)] = replace(found, mask=found.mask & inside)
        self._rows: dict[Place, Tensor] = {}
        self._zero: dict[Place, float] = {}
        self._clean = 0.0

    def __repr__(self) -> str:
        layers = {name: f"{layer.hook_in} -> {layer.hook_out}" for name, layer in self.layers.items()}
        return line("TranscoderEvaluator", {"layers": layers, "tokens": self.tokens})

    def __call__(self, sae: Any, data_provider: Any, activation_scaler: Any) -> Entries:
        """Take SAELens's arguments; the prompts are the evaluator's own."""
        del data_provider, activation_scaler
        (name,) = self.layers
        return self.evaluate({name: sae})[name]

    @torch.no_grad()
    def evaluate(self, transcoders: Mapping[str, Any]) -> dict[str, Entries]:
        """Return the entries of each by name, as the function that it exports (`eval` mode)."""
        modes = {name: transcoder.training for name, transcoder in transcoders.items()}
        for transcoder in transcoders.values():
            transcoder.eval()
        try:
            spliced = self.spliced(transcoders)
            return {name: self._alone(name, t) | spliced[name] for name, t in transcoders.items()}
        finally:
            for name, transcoder in transcoders.items():
                transcoder.train(modes[name])

    def _alone(self, name: str, transcoder: Any) -> Entries:
        layer, rows = self.layers[name], self._rows[_place(self.layers[name])]
        outputs = reconstruction(transcoder, layer, rows)
        some = rows[torch.linspace(0, len(rows) - 1, min(self.jacobian_rows, len(rows))).long()]
        jacobian = jacobian_error(transcoder, layer, some)
        return {
            "fvu": outputs.fvu,
            "l0": outputs.l0,
            "dead_fraction": outputs.dead_fraction,
            "jacobian_error": jacobian.relative_error,
            "jacobian_cosine": jacobian.cosine,
            "jacobian_error_data": jacobian.relative_error_data,
            "jacobian_cosine_data": jacobian.cosine_data,
        }

    def _look_once(self) -> None:
        """Keep the rows at every input hook, and the cross-entropies that no transcoder changes."""
        if self._rows:
            return
        seen: dict[Place, list[Tensor]] = {place: [] for place in self.kept}
        clean, zero = 0.0, dict.fromkeys(self.kept, 0.0)

        def keep_rows(name: str, kept: Mapping[Place, Tensor]) -> Hook:
            def look(x: Tensor) -> None:
                for place, rows in seen.items():
                    if place[0] == name:
                        rows.append(x[kept[place]])

            return look

        for tokens, kept in self._batches():
            logits = self.hooks.run(tokens, {place[0]: keep_rows(place[0], kept) for place in seen})
            clean += cross_entropy(logits, tokens).double().sum().item()
            for place, mask in kept.items():
                write_zeros = partial(torch.where, mask[..., None], 0)
                zeroed = self.hooks.run(tokens, {place[1]: write_zeros})
                zero[place] += cross_entropy(zeroed, tokens).double().sum().item()
        n = self._n_predicted
        self._clean, self._zero = clean / n, {place: total / n for place, total in zero.items()}
        self._rows = {place: torch.cat(rows) for place, rows in seen.items()}

    @torch.no_grad()
    def concentration(self) -> dict[str, VarianceConcentration]:
        """Return by transcoder's name whether a few of the rows make most of the variance that "fvu" divides by."""
        with self.lock:
            self._look_once()
            of = {_place(y): variance_concentration(y(self._rows[_place(y)])) for y in self.layers.values()}
            return {name: of[_place(layer)] for name, layer in self.layers.items()}

    @torch.no_grad()
    def spliced(self, transcoders: Mapping[str, Any]) -> dict[str, Entries]:
        """Return the entries of each in the layer's place alone: "ce" and following. In the transcoder's own mode."""
        with self.lock:
            self._look_once()
            ce, kl = dict.fromkeys(transcoders, 0.0), dict.fromkeys(transcoders, 0.0)
            for tokens, kept in self._batches():
                logits = self.hooks.run(tokens, {})
                for name, transcoder in transcoders.items():
                    layer = self.layers[name]
                    changed = self.hooks.run(tokens, _splice(layer, transcoder, kept[_place(layer)]))
                    ce[name] += cross_entropy(changed, tokens).double().sum().item()
                    kl[name] += kl_divergence(logits, changed)[:, :-1].sum().item()
        found: dict[str, Entries] = {}
        for name in transcoders:
            zero, own = self._zero[_place(self.layers[name])], ce[name] / self._n_predicted
            found[name] = {
                "ce": own,
                "ce_clean": self._clean,
                "ce_zero": zero,
                "ce_recovered": ce_recovered(zero, own, self._clean),
                "kl": kl[name] / self._n_predicted,
            }
        return found

    @property
    def _n_predicted(self) -> int:
        return self.tokens.shape[0] * (self.tokens.shape[1] - 1)

    def _batches(self) -> Iterator[tuple[Tensor, dict[Place, Tensor]]]:
        for start in range(0, len(self.tokens), self.batch_size):
            part = slice(start, start + self.batch_size)
            yield self.tokens[part], {place: kept.mask[part] for place, kept in self.kept.items()}


def _place(layer: HookedLayer) -> Place:
    return layer.hook_in, layer.hook_out


def _splice(layer: HookedLayer, transcoder: Any, kept: Bool[Tensor, "batch pos"]) -> dict[str, Hook]:
    """Return hooks that put t(x) in the place of f(x), at the tokens that the transcoder was trained for."""
    written: list[Float[Tensor, "batch pos d_out"]] = []

    def read(x: Tensor) -> None:
        written.append(transcoder(x))

    def write(y: Tensor) -> Tensor:
        return torch.where(kept[..., None], written.pop().to(y.dtype), y)

    return read_and_write(layer, read, write)
