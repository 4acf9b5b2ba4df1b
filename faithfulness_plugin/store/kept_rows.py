"""Decide which rows of some prompts count for one layer of a model, and count what was left out and why."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from faithfulness_plugin.display import short_repr
from faithfulness_plugin.errors import UsageError
from faithfulness_plugin.layers.hooked_layer import HookedLayer
from faithfulness_plugin.layers.hooks import Hooks
from faithfulness_plugin.store.fill import rows_kept
from faithfulness_plugin.store.left_out import LeftOut, LeftOutCounts


@dataclass(frozen=True)
class KeptRows:
    """The rows of some prompts that count."""

    mask: Bool[Tensor, "prompts pos"]
    """True where they are."""
    counts: LeftOutCounts
    exclude: LeftOut
    """The rule, with its limits of norms fitted to this layer."""

    __repr__ = short_repr


@torch.no_grad()
def kept_rows(
    hooks: Hooks,
    layer: HookedLayer,
    tokens: Int[Tensor, "prompts pos"],
    exclude: Tensor | LeftOut | None = None,
    *,
    batch_size: int = 8,
) -> KeptRows:
    """Apply the rule to prompts. The model is run on them only where norms are asked for.

    Args:
        hooks: the model's.
        layer: the layer whose input and output norms count.
        tokens: the prompts.
        exclude: token ids, or a `LeftOut`. Its factor of norms is fitted to these prompts, unless it was fitted before.
        batch_size: prompts that the model is run on at a time.

    Returns:
        Which rows count, how many were left out and why, and the fitted rule.

    Raises:
        UsageError: no row is left; prompts that the model cannot be run on (see `Hooks.require_tokens`).
    """
    hooks.require_tokens(tokens)
    rule = LeftOut.of(exclude)
    mask = by_token = rule.places(tokens)
    if rule.norms_above is not None and mask.any():
        carried = rows_kept(hooks, {layer.hook_in, layer.hook_out}, tokens, mask, batch_size)
        x, y = carried[layer.hook_in], carried[layer.hook_out]
        rule = rule.fitted(x, y)
        mask = mask.masked_scatter(mask, rule.within(x, y).to(mask.device))
    counts = rule.counts(by_token, n_norms=int(by_token.sum() - mask.sum()))
    if not counts.rows:
        raise UsageError(f"no row is left to look at ({counts}): leave out less, or give longer prompts")
    return KeptRows(mask, counts, rule)


def evenly(n_rows: int, n: int) -> Int[Tensor, " n_or_fewer"]:
    """Choose n rows, evenly spread.

    Args:
        n_rows: how many there are.
        n: how many are wanted; all where there are fewer.

    Returns:
        Their indices.
    """
    return torch.linspace(0, n_rows - 1, min(n, n_rows)).long()
