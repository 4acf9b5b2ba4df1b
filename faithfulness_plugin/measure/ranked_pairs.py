"""How well a transcoder maps every tensor of a block to every later one, ranked."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import isnan
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from faithfulness_plugin.display import short_repr
from faithfulness_plugin.errors import UsageError
from faithfulness_plugin.layers.declared_hooks import block_of, declared_hooks
from faithfulness_plugin.layers.hooks import Hook, Hooks, Reached, Tokens
from faithfulness_plugin.metrics.variance_concentration import VarianceConcentration, variance_concentration

if TYPE_CHECKING:  # at run time a type is no reason to load SAELens
    from sae_lens import SAE

CLEARLY = 0.5
"""A pair is clearly not the one that a transcoder was trained on where its FVU is above this, the best pair's below it,
and less than half of it."""
FEW = 4
"""Prompts on which the tensors of a block are compared for a warning."""
AS_EQUAL = 1e-6
"""Tensors that differ by less, relative to their size, are ranked as one, under all of their names."""


@dataclass(frozen=True)
class RankedPair:
    """A transcoder on one pair of tensors."""

    hook_in: tuple[str, ...]
    """The names of the tensor that is read, the shortest first."""
    hook_out: tuple[str, ...]
    """The names of the tensor that is compared with what the transcoder writes."""
    fvu: float
    """||t(x) - y||^2 / ||y - E y||^2."""
    l0: float
    """Active features a row."""
    norm_in: float
    """E||x||."""
    norm_out: float
    """E||y||."""
    compared: bool = False
    """Whether it is the pair that the file declares, or that was asked for."""
    spread: VarianceConcentration | None = None
    """How the variance of y is spread over rows."""

    @property
    def autoencoder(self) -> bool:
        """Whether the two are one tensor."""
        return self.hook_in == self.hook_out


@dataclass(frozen=True)
class Ranking:
    """All pairs, the lowest FVU first."""

    pairs: tuple[RankedPair, ...]
    n_rows: int
    """How many rows were looked at; all pairs share them."""
    of_autoencoder: bool
    """Whether it was read as an autoencoder."""

    __repr__ = short_repr

    @property
    def best(self) -> RankedPair:
        """The pair of the lowest FVU."""
        return self.pairs[0]

    @property
    def compared(self) -> RankedPair | None:
        """The declared pair."""
        return next((pair for pair in self.pairs if pair.compared), None)

    @property
    def clearly_another(self) -> bool:
        """Whether the declared pair is clearly not the one that the transcoder was trained on."""
        declared, best = self.compared, self.best
        return declared is not None and best.fvu < CLEARLY < declared.fvu and best.fvu < declared.fvu / 2

    def warning(self) -> str | None:
        """Warn of a declared pair that is clearly not the best.

        Returns:
            One line with what to pass instead; None where there is nothing to warn of.
        """
        if not self.clearly_another:
            return None
        declared, best = self.compared, self.best
        assert declared is not None
        return (
            f"at the tensors that it is measured between, {declared.hook_in[0]} and {declared.hook_out[0]}, the "
            f"transcoder's FVU is {declared.fvu:.3g}; at {best.hook_in[0]} and {best.hook_out[0]} it is "
            f"{best.fvu:.3g}. {what_to_pass(best, of_autoencoder=self.of_autoencoder)}"
        )


def what_to_pass(pair: RankedPair, *, of_autoencoder: bool) -> str:
    """Name the options that choose a pair.

    Args:
        pair: the pair to choose.
        of_autoencoder: whether the transcoder was read as an autoencoder.

    Returns:
        One sentence.
    """
    if pair.autoencoder and of_autoencoder:
        return f"Pass --hook-in {pair.hook_in[0]} --hooks-anyway to measure it there"
    if pair.autoencoder:
        return f"It looks like an autoencoder of {pair.hook_in[0]}: pass --autoencoder, if it is one"
    return f"Pass --hook-in {pair.hook_in[0]} --hook-out {pair.hook_out[0]} --hooks-anyway to measure it there"


@dataclass(frozen=True, eq=False)
class _Carried:
    """One tensor of the model, under all of its names."""

    names: tuple[str, ...]
    rows: Float[Tensor, "rows d"]

    @cached_property
    def variance(self) -> Float[Tensor, ""]:
        return (self.rows.double() - self.rows.double().mean(0)).square().sum()

    @cached_property
    def norm(self) -> float:
        return self.rows.double().norm(dim=-1).mean().item()

    @cached_property
    def spread(self) -> VarianceConcentration:
        return variance_concentration(self.rows)


@torch.no_grad()
def ranked_pairs(
    hooks: Hooks,
    transcoder: "SAE[Any]",
    tokens: Tokens,
    blocks: Sequence[Sequence[str]],
    *,
    compared: tuple[str, str] | None = None,
    kept: Bool[Tensor, "batch pos"] | None = None,
    norms_above: float | None = None,
) -> Ranking:
    """Run the model once, and the transcoder once on every distinct tensor that is as wide as its input, and rank the
    pairs.

    Args:
        hooks: the model's.
        transcoder: any SAELens transcoder, in `eval` mode.
        tokens: a few prompts.
        blocks: names of tensors; pairs are made within each list, of one tensor and those that are passed after it.
        compared: names of the declared pair; None where there is none.
        kept: which tokens are looked at; None keeps all.
        norms_above: leaves out rows whose norm is above this factor times the median at any tensor that is as wide as
            the transcoder's input or output: so all pairs share their rows. None keeps all.

    Returns:
        All pairs, the lowest FVU first.

    Raises:
        UsageError: no tensors have the transcoder's widths, no row is left, or they hold NaN or Inf.
    """
    d_in, d_out = transcoder.W_enc.shape[0], transcoder.W_dec.shape[1]

    def measured(x: _Carried, written: Sequence[_Carried]) -> Iterator[RankedPair]:
        if x.rows.shape[1] != d_in:
            return
        inputs = x.rows.to(transcoder.W_enc)
        t = transcoder(inputs).to(x.rows.device).double()
        l0 = (transcoder.encode(inputs) > 0).sum(-1).double().mean().item()
        for y in written:
            if y.rows.shape[1] == d_out and y.variance > 0:
                fvu = ((t - y.rows.double()).square().sum() / y.variance).item()
                declared = compared is not None and compared[0] in x.names and compared[1] in y.names
                yield RankedPair(x.names, y.names, fvu, l0, x.norm, y.norm, compared=declared, spread=y.spread)

    passed = _passed(hooks, tokens, {name for names in blocks for name in names} | {*(compared or ())}, kept)
    passed = {name: rows for name, rows in passed.items() if rows.shape[1] in (d_in, d_out)}
    passed = _finite_and_usual(passed, norms_above)
    groups = [_distinct({name: passed[name] for name in passed if name in names}) for names in blocks]
    found = [pair for group in groups for i, x in enumerate(group) for pair in measured(x, group[i:])]
    if compared is not None and not any(pair.compared for pair in found) and passed.keys() >= {*compared}:
        # the declared pair, across blocks or in the wrong order
        ends = _distinct({name: passed[name] for name in passed if name in compared})
        read, written = (next(end for end in ends if name in end.names) for name in compared)
        found += measured(read, [written])
    if not found:
        raise UsageError(
            f"no two tensors there are {d_in} and {d_out} wide, as the transcoder is: is it one of this model?"
        )
    n_rows = len(next(iter(passed.values())))
    ranked = sorted(found, key=lambda pair: (isnan(pair.fvu), pair.fvu))
    return Ranking(tuple(ranked), n_rows, declared_hooks(transcoder).autoencoder)


def mismatch_warning(
    hooks: Hooks,
    transcoder: "SAE[Any]",
    tokens: Tokens,
    layer: Any,
    kept: Bool[Tensor, "batch pos"] | None = None,
) -> str | None:
    """Warn where a transcoder is clearly not one of the layer that it is measured at.

    Args:
        hooks: the model's.
        transcoder: any SAELens transcoder, in `eval` mode.
        tokens: the prompts.
        layer: with `hook_in` and `hook_out`.
        kept: which tokens are looked at; None keeps all.

    Returns:
        One line; None where it may be of this layer, or where the tensors of the layer's block cannot be compared.
    """
    block, pair = block_of(layer.hook_in), (layer.hook_in, layer.hook_out)
    if block is None:
        return None
    try:
        names = [*dict.fromkeys([*hooks.block_tensors(block), *(name for name in pair if block_of(name) == block)])]
        some = None if kept is None else kept[:FEW]
        return ranked_pairs(hooks, transcoder, tokens[:FEW], [names], compared=pair, kept=some).warning()
    except ValueError:
        return None


def _passed(
    hooks: Hooks, tokens: Tokens, names: set[str], kept: Bool[Tensor, "batch pos"] | None
) -> dict[str, Float[Tensor, "rows d"]]:
    """Return the rows at each tensor, in the order in which the model passes them."""
    passed: dict[str, Tensor] = {}

    def keep(name: str) -> Hook:
        def look(activation: Tensor) -> None:
            if name not in passed and activation.ndim == 3:
                rows = activation if kept is None else activation[kept.to(activation.device)]
                passed[name] = rows.flatten(0, -2).clone()
            if len(passed) == len(names):
                raise Reached

        return look

    hooks.visit(tokens, {name: keep(name) for name in sorted(names)})
    return passed


def _finite_and_usual(passed: dict[str, Tensor], norms_above: float | None) -> dict[str, Tensor]:
    """Return the rows whose norms are usual at all of these tensors."""
    for name, rows in passed.items():
        if not rows.isfinite().all():
            raise UsageError(f"there is NaN or Inf at {name} of the model: check the model and its dtype")
    if not passed or norms_above is None:
        return passed
    norms = torch.stack([rows.double().norm(dim=-1) for rows in passed.values()])
    usual = (norms <= norms_above * norms.median(-1, keepdim=True).values).all(0)
    if not usual.any():
        raise UsageError(f"no row is left whose norm is usual at every tensor (norms_above={norms_above}): raise it")
    return {name: rows[usual] for name, rows in passed.items()}


def _distinct(passed: dict[str, Tensor]) -> list[_Carried]:
    """Return distinct tensors with all their names, the shortest first, in the order in which the model passes them."""
    groups: list[tuple[list[str], Tensor]] = []
    for name, rows in passed.items():
        same = next((names for names, other in groups if _as_equal(rows, other)), None)
        if same is None:
            groups.append(([name], rows))
        else:
            same.append(name)
    return [
        _Carried(tuple(sorted(names, key=lambda name: (block_of(name) is None, len(name), name))), rows)
        for names, rows in groups
    ]


def _as_equal(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape:
        return False
    one, other = one.double(), other.double()
    return bool((one - other).norm() <= AS_EQUAL * other.norm())
