"""The check that a model computes a given layer between two of its hooks, and the layer that it computes there."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from faithfulness_plugin.display import short_repr
from faithfulness_plugin.errors import UsageError
from faithfulness_plugin.layers.comparison import random_signs, same_rows
from faithfulness_plugin.layers.derivatives import forward_jvp, layer_jvp
from faithfulness_plugin.layers.hooked_layer import HookedLayer
from faithfulness_plugin.layers.hooks import Hooks, Reached, Tokens


class LayerError(UsageError):
    """The model does not compute this layer between these hooks; the message names the likely cause."""


class Injected(NamedTuple):
    """The values that the model itself computes between two hooks."""

    x: Float[Tensor, "batch *pos d_in"]
    v: Float[Tensor, "batch *pos d_in"]
    y: Float[Tensor, "batch *pos d_out"]
    Jv: Float[Tensor, "batch *pos d_out"]

    __repr__ = short_repr


def between(hooks: Hooks, hook_in: str, hook_out: str) -> HookedLayer:
    """Return the layer between any two hooks, unchecked.

    It is the model run on one-token prompts, one a row, with the rows put in at `hook_in`, and stopped at `hook_out`.
    Forward-mode derivatives pass through in the same single run. A model that does not read tokens is run on one input
    a row, with the row at all of its positions.

    Args:
        hooks: the model's.
        hook_in: the name of the tensor that the layer reads.
        hook_out: the name of the tensor that it writes.

    Returns:
        The layer.

    Raises:
        UsageError: there is no such hook.
    """
    hooks.require(hook_in)
    hooks.require(hook_out)

    def function(rows: Tensor) -> Tensor:
        inputs = hooks.blank(rows.shape[1])
        carried = _run_between(hooks, hook_in, hook_out, inputs, rows.transpose(0, 1))
        return carried.flatten(1, -2)[:, :1].transpose(0, 1)

    return HookedLayer(hook_in, hook_out, function, weights=lambda: hooks.weights_up_to(hook_out), runs_model=True)


def check_layer(hooks: Hooks, layer: Callable[[Tensor], Tensor], hook_in: str, hook_out: str) -> None:
    """Check that the model computes a given layer between two hooks, and raise if it does not.

    The model is run once on random tokens, with dual numbers put in at `hook_in`: f(x) is compared with what `hook_out`
    carries, and J_f v with its tangent.

    Args:
        hooks: the model's.
        layer: f, row-wise.
        hook_in: the name of the tensor that the layer reads.
        hook_out: the name of the tensor that it writes.

    Raises:
        LayerError: they differ; the message names the likely cause.
        UsageError: there is no such hook.
    """
    hooks.require(hook_in)
    hooks.require(hook_out)
    tokens = hooks.random_tokens()
    truth = _inject(hooks, hook_in, hook_out, tokens)
    if not all(carried.isfinite().all() for carried in truth):
        raise LayerError(f"the model carries NaN or Inf from {hook_in} to {hook_out}: check its weights and its dtype")
    if not _agrees(layer, truth):
        cause = _likely_cause(hooks, layer, hook_in, hook_out, tokens, truth)
        raise LayerError(f"the layer is not what the model computes from {hook_in} to {hook_out}: {cause}")


@torch.no_grad()
def _inject(hooks: Hooks, hook_in: str, hook_out: str, tokens: Tokens, *, positions: slice = slice(None)) -> Injected:
    """Return x, a random v, y and Jv between two hooks, by the model itself.

    x + v epsilon is put in at `hook_in`, with epsilon squared 0, and y + Jv epsilon read at `hook_out` of the same
    forward pass. v is 0 outside `positions`.

    Raises:
        LayerError: `hook_in` is passed more than once or not before `hook_out`; an operation between them has no
            derivative.
    """
    x = _activation(hooks, hook_in, hook_out, tokens)
    v = torch.zeros_like(x)
    generator = torch.Generator(x.device).manual_seed(1)
    v[:, positions] = x.square().mean().sqrt() * random_signs(x, x[:, positions].shape, generator)
    try:
        y, Jv = forward_jvp(lambda put_in: _run_between(hooks, hook_in, hook_out, tokens, put_in), x, v)
    except LayerError:
        raise
    except (ValueError, RuntimeError) as error:
        reason = str(error.__cause__ or error).splitlines()[0]
        what = "fused attention, as it seems" if "attention" in reason else "an operation without a derivative"
        raise LayerError(
            f"between {hook_in} and {hook_out} stands {what} ({reason}). Choose hooks around an MLP"
        ) from error
    return Injected(x, v, y, Jv)


def _activation(hooks: Hooks, hook_in: str, hook_out: str, tokens: Tokens) -> Tensor:
    """Return what `hook_in` carries, if it is passed once and before `hook_out`."""
    passed: list[str] = []
    seen: list[Tensor] = []

    def at_input(activation: Tensor) -> None:
        passed.append(hook_in)
        seen.append(activation.detach().clone())

    def at_output(activation: Tensor) -> None:
        del activation
        passed.append(hook_out)
        if hook_in in passed:
            raise Reached

    try:
        hooks.visit(tokens, {hook_in: at_input, hook_out: at_output})
    except UsageError:
        raise
    except Exception as error:  # whatever a model raises that needs other inputs
        raise LayerError(
            f"the model does not run on inputs {list(tokens.shape)} ({' '.join(str(error).split())}): take the part of "
            "it that the layer is in, or a function of your own"
        ) from error
    for name in (hook_in, hook_out):
        if name not in passed:
            raise LayerError(f"a run of the model does not pass {name}: choose hooks of the same forward pass")
    if passed.index(hook_out) < passed.index(hook_in):
        raise LayerError(
            f"{hook_out} is passed before {hook_in}: choose the input and the output of one layer, in this order"
        )
    if len(seen) > 1:
        raise LayerError(
            f"{hook_in} is passed {len(seen)} times before {hook_out} (a hook that is entered again, or a module that "
            "is shared), so there is no one layer after it: choose another hook"
        )
    return seen[0]


def _run_between(hooks: Hooks, hook_in: str, hook_out: str, tokens: Tokens, put_in: Tensor) -> Tensor:
    """Return what `hook_out` carries with these activations put in at `hook_in`; one a prompt at all its positions."""
    seen: list[Tensor] = []

    def put(x: Tensor) -> Tensor:
        if put_in.shape[1] == 1 and put_in.shape[:-1] != x.shape[:-1]:
            return put_in.reshape(len(x), *(1,) * (x.ndim - 2), -1).expand(*x.shape[:-1], -1).to(x.dtype)
        return put_in.to(x.dtype)

    def keep(activation: Tensor) -> None:
        seen.append(activation)
        raise Reached

    hooks.visit(tokens, {hook_in: put, hook_out: keep})
    if not seen:
        raise LayerError(f"a run of the model does not pass {hook_out}: choose hooks of the same forward pass")
    return seen[0]


@torch.no_grad()
def _likely_cause(
    hooks: Hooks,
    layer: Callable[[Tensor], Tensor],
    hook_in: str,
    hook_out: str,
    tokens: Tokens,
    truth: Injected,
) -> str:
    if not same_rows(_run_between(hooks, hook_in, hook_out, tokens, truth.x), truth.y):
        return "the model puts out something else every time that it is run, as with dropout. Call model.eval() first"
    if not truth.Jv.any():
        return f"{hook_out} does not depend on {hook_in} at all. Choose an input hook and an output hook of one layer"
    first_only = _inject(hooks, hook_in, hook_out, tokens, positions=slice(0, 1))
    if first_only.Jv[:, 1:].any():
        return (
            "attention lies between them, or a convolution or a recurrence, so that what one token puts out depends on "
            "other tokens. Choose hooks around an MLP"
        )
    for cause, corrected in hooks.suspects(hook_in, hook_out).items():
        if _agrees(corrected(layer), truth):
            return cause
    other_context = hooks.random_tokens(len(tokens), tokens.shape[1], seed=2)
    if not same_rows(_run_between(hooks, hook_in, hook_out, other_context, truth.x), truth.y):
        return (
            f"{hook_out} depends on more than {hook_in} (the residual stream passes by, as it seems, or a router's "
            "choice). Choose hooks around one MLP, before its output is added to anything"
        )
    try:
        layer(truth.x)
    except Exception as error:
        return f"another function stands there; this one fails on its rows ({' '.join(repr(error).split())})"
    return "another function stands there. Use mlp_layer(model, block), or layer_between(model, hook_in, hook_out)"


def _agrees(layer: Callable[[Tensor], Tensor], truth: Injected) -> bool:
    rows, v = truth.x.flatten(0, -2), truth.v.flatten(0, -2)
    try:
        y, Jv = layer_jvp(layer, rows, v)
    except Exception:  # a width that does not fit, an argument that is missing: whatever another function may raise
        return False
    return same_rows(y, truth.y.flatten(0, -2)) and same_rows(Jv, truth.Jv.flatten(0, -2))
