"""The model's tokens as one of its layers meets them: embeddings as what it reads, logits as what it writes."""

from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple

import torch
from torch import Tensor

from faithfulness_plugin.display import short_repr
from faithfulness_plugin.errors import UsageError
from faithfulness_plugin.layers.declared_hooks import block_of
from faithfulness_plugin.layers.hooked_layer import HookedLayer
from faithfulness_plugin.layers.hooks import Hooks
from faithfulness_plugin.layers.vocabulary import NormScale, Vocabulary, norm_scale

STREAM = ("hook_mlp_in", "hook_resid_mid", "hook_resid_pre", "hook_resid_post")
"""Where a layer may branch off the residual stream, after `blocks.N.`."""


class LayerVocabulary(NamedTuple):
    """A model's tokens, for what one layer reads and writes."""

    model: Vocabulary
    norm_in: NormScale | None
    """From the residual stream to what the layer reads; None where the layer reads something else."""
    written: float | None
    """The multiple of the layer's output that the residual stream gets (1 but for a residual multiplier); None where
    the output is not added to it."""
    stream: str | None = None
    """The tensor that `norm_in` is given, by name."""

    __repr__ = short_repr


@torch.no_grad()
def layer_vocabulary(hooks: Hooks, layer: HookedLayer) -> LayerVocabulary | None:
    """Find out what a model's tokens are to one of its layers.

    Two small runs on random tokens show which norm stands between the residual stream and the layer's input, and
    whether the stream gets what is added to its output.

    Args:
        hooks: the model's.
        layer: one of its layers.

    Returns:
        The tokens; None where the model has no unembedding that fits, or the layer neither reads the residual stream
        nor writes to it.
    """
    model = hooks.vocabulary()
    if model is None:
        return None
    stream, norm_in = _norm_in(hooks, layer.hook_in)
    found = LayerVocabulary(model, norm_in, _written(hooks, layer.hook_out), stream)
    return None if found.norm_in is None and found.written is None else found


def _stream(hooks: Hooks, hook: str) -> Iterator[str]:
    for name in STREAM:
        with suppress(UsageError):
            yield hooks.require(f"blocks.{block_of(hook)}.{name}")


def _norm_in(hooks: Hooks, hook_in: str) -> tuple[str, NormScale] | tuple[None, None]:
    for name in _stream(hooks, hook_in):
        seen = _carried(hooks, name, hook_in)
        if name in seen and hook_in in seen and (norm := norm_scale(seen[name], seen[hook_in])) is not None:
            return name, norm
    return None, None


def _written(hooks: Hooks, hook_out: str) -> float | None:
    """Return by which multiple of what is added to the tensor its block's output moves; None where it does not."""
    after = list(_stream(hooks, hook_out))[-1:]
    if not after or not after[0].endswith("hook_resid_post"):
        return None
    if hooks.own_name(after[0]) == hooks.own_name(hook_out):
        return 1.0
    clean = _carried(hooks, after[0], hook_out)
    if len(clean) < 2 or clean[after[0]].shape != clean[hook_out].shape:
        return None
    y = clean[hook_out]
    step = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y) * y.double().std().to(y)
    moved: list[Tensor] = []
    hooks.visit(hooks.random_tokens(), {hook_out: lambda y: y + step, after[0]: lambda y: moved.append(y.clone())})
    response, step = moved[0].double() - clean[after[0]].double(), step.double()
    c = ((response * step).sum() / step.square().sum()).item()
    exact = y.dtype in (torch.float32, torch.float64)
    if abs(c) < 1e-6 or (response - c * step).norm() > (1e-2 if exact else 5e-2) * response.norm():
        return None
    return 1.0 if abs(c - 1) < 1e-2 else c


def _carried(hooks: Hooks, *names: str) -> dict[str, Tensor]:
    """Return what a run on random tokens carries under these names."""
    seen: dict[str, Tensor] = {}
    hooks.visit(hooks.random_tokens(), {name: lambda a, name=name: seen.update({name: a.clone()}) for name in names})
    return seen
