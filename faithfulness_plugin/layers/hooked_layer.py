"""The layer between two hooks of a model, as a function of rows, and the check that the model computes it there."""

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from faithfulness_plugin.differences import with_size
from faithfulness_plugin.jacobian.probes import rademacher
from faithfulness_plugin.layers.derivatives import forward_jvp, layer_jvp
from faithfulness_plugin.layers.layer_weights import LayerWeights
from faithfulness_plugin.layers.mlp_weights import mlp_weights, same_rows
from faithfulness_plugin.nearest import nearest

Hook = Callable[[Tensor], Tensor | None]
"""Sees an activation [batch, pos, d]; returns what takes its place, or None to leave it."""


Tokens = Int[Tensor, "batch pos"] | Float[Tensor, "batch *shape"]
"""What a model is run on: tokens; pictures or sound, where it reads those; rows, where it is a bare layer."""


class LayerError(ValueError):
    """A layer that the model does not compute between these hooks; the message names the likely cause."""


class NoLogits(ValueError):
    """A model without logits for the next token, asked for them."""


class Suspect(NamedTuple):
    """One way in which a layer can be wrong, tried where it does not agree with the model."""

    cause: str
    mended: Callable[[Callable[[Tensor], Tensor]], Callable[[Tensor], Tensor]]
    """The layer as it would be right, if this is the cause."""


class Hooks(ABC):
    """A model's activations by name: all that is asked of a model here, whichever library it comes from."""

    @property
    @abstractmethod
    def names(self) -> Sequence[str]:
        """Of every hook."""

    @property
    @abstractmethod
    def n_vocab(self) -> int:
        """How many tokens there are."""

    @property
    def n_positions(self) -> int | None:
        """How many tokens a prompt may have; None for a model without a limit."""
        return None

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where tokens go."""

    @abstractmethod
    def _run(self, tokens: Tokens, hooks: Mapping[str, Hook]) -> Tensor | None:
        """Runs the model; returns its logits for the next token, or None where it has none."""

    def run(self, tokens: Tokens, hooks: Mapping[str, Hook]) -> Tensor:
        """The logits [batch, pos, n_vocab] with hooks in place, which are gone afterwards. A run of the same model in
        another thread does not see them.

        Raises NoLogits at the end of a run of a model that does not predict the next token: use `visit` for one whose
        activations are all that is wanted."""
        here = threading.get_ident()

        def of_this_thread(hook: Hook) -> Hook:
            return lambda activation: hook(activation) if threading.get_ident() == here else None

        logits = self._run(tokens, {name: of_this_thread(hook) for name, hook in hooks.items()})
        if logits is None:
            raise NoLogits(
                "the model does not predict the next token, so that KL and cross-entropy are undefined: load a causal "
                "language model (AutoModelForCausalLM), or measure the layer alone"
            )
        return logits

    def visit(self, tokens: Tokens, hooks: Mapping[str, Hook]) -> None:
        """Runs the model for what hooks see, whether or not it has logits, until one of them raises `Reached`."""
        with suppress(Reached, NoLogits):
            self.run(tokens, hooks)

    def suspects(self, hook_in: str, hook_out: str) -> list[Suspect]:
        """What is often got wrong between these two hooks."""
        del hook_in, hook_out
        return []

    def own_name(self, name: str) -> str:
        """The model's own name for a tensor that has several."""
        return name

    def block_tensors(self, block: int) -> list[str]:
        """Names of the tensors of a block around its MLP and in its residual stream. Raises ValueError for a block
        that there is not."""
        raise ValueError(f"there is no block {block}: the model is not made of blocks")

    def require(self, name: str) -> str:
        """The name, if there is such a hook. Raises ValueError, with the nearest names, where there is none."""
        if name in self.names:
            return name
        hint = nearest(name, self.names, n=3, otherwise="see the model's hook names")
        raise ValueError(f"the model has no hook {name}: {hint}")

    def require_context(self, length: int) -> None:
        """Raises ValueError for prompts of more tokens than the model has positions."""
        if self.n_positions is not None and length > self.n_positions:
            raise ValueError(
                f"prompts of {length} tokens do not fit the model, which has {self.n_positions} positions: make them "
                f"{self.n_positions} tokens or shorter"
            )

    def require_tokens(self, tokens: Int[Tensor, "batch pos"]) -> None:
        """Raises ValueError for prompts that the model cannot be run on: too long, or with ids outside its vocabulary.
        Models would fail somewhere inside, or compute with whatever stands there."""
        self.require_context(tokens.shape[1])
        if tokens.numel() and not (int(tokens.min()) >= 0 and int(tokens.max()) < self.n_vocab):
            outside = tokens[(tokens < 0) | (tokens >= self.n_vocab)][0]
            raise ValueError(
                f"token id {int(outside)} is outside the model's vocabulary, 0 to {self.n_vocab - 1}: use the model's "
                "own tokenizer"
            )

    def random_tokens(self, n_prompts: int = 2, length: int = 8, seed: int = 0) -> Tokens:
        """Random tokens: enough to see which function a layer is."""
        generator = torch.Generator().manual_seed(seed)
        return torch.randint(self.n_vocab, (n_prompts, length), generator=generator).to(self.device)

    def blank(self, n: int) -> Tokens:
        """The smallest n inputs: one token each, where the model reads tokens."""
        return torch.zeros(n, 1, dtype=torch.long, device=self.device)


class Reached(Exception):
    """The last hook has been seen: the rest of the forward pass is not needed."""


class HookedLayer:
    """f from `hook_in` to `hook_out`, row-wise: [..., d_in] -> [..., d_out].

    Args:
        hook_in, hook_out: the model's own names.
        function: f on [1, rows, d_in].
        weights: where f is an MLP with one hidden layer, its weights, so that Jacobians are had in closed form.
        runs_model: f puts hooks into the model, or runs hooks on its way in and out. While another thread may run the
            model, `lock` has to be one that it takes too.

    Raises ValueError when called from inside itself, by a hook on something that it calls.
    """

    def __init__(
        self,
        hook_in: str,
        hook_out: str,
        function: Callable[[Tensor], Tensor],
        *,
        weights: Callable[[], LayerWeights | None] = lambda: None,
        runs_model: bool = False,
    ) -> None:
        self.hook_in, self.hook_out, self.function, self.weights = hook_in, hook_out, function, weights
        self.runs_model = runs_model
        self.lock: AbstractContextManager[Any] = nullcontext()
        self.seconds = 0.0
        """Time spent in f, derivatives in forward mode included; set to 0 at will."""
        self._inside = threading.local()

    def __call__(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_out"]:
        if getattr(self._inside, "now", False):
            raise ValueError(
                f"the layer from {self.hook_in} to {self.hook_out} was called by a hook inside itself, which would go "
                "on for ever: hook another point, or use what the hook is given"
            )
        begun = _clock(x)
        self._inside.now = True
        try:
            with self.lock:
                y = self.function(x.reshape(1, x.shape[:-1].numel(), x.shape[-1]))
        finally:
            self._inside.now = False
        self.seconds += _clock(y) - begun
        return y.reshape(*x.shape[:-1], y.shape[-1])

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.hook_in} -> {self.hook_out})"

    def copy(self) -> "HookedLayer":
        """The same layer with a clock of its own."""
        copied = HookedLayer(
            self.hook_in, self.hook_out, self.function, weights=self.weights, runs_model=self.runs_model
        )
        copied.lock = self.lock
        return copied


def read_and_write(layer: HookedLayer, read: Hook, write: Hook) -> dict[str, Hook]:
    """Hooks at a layer's input and output; one after the other at the one tensor of an autoencoder."""
    if layer.hook_in != layer.hook_out:
        return {layer.hook_in: read, layer.hook_out: write}

    def both(x: Tensor) -> Tensor | None:
        changed = read(x)
        return write(x if changed is None else changed)

    return {layer.hook_in: both}


def _clock(x: Tensor) -> float:
    if x.is_cuda:
        torch.cuda.synchronize(x.device)
    return time.perf_counter()


@mlp_weights.register
def _weights_of_hooked_layer(layer: HookedLayer) -> LayerWeights | None:
    return layer.weights()


def between(hooks: Hooks, hook_in: str, hook_out: str) -> HookedLayer:
    """The layer between any two hooks, unchecked: the model run on one-token prompts, one a row, with the rows put in
    at `hook_in`, and stopped at `hook_out`. Forward-mode derivatives pass through in the same single run. A model that
    does not read tokens is run on one input a row, with the row at all of its positions."""
    hooks.require(hook_in)
    hooks.require(hook_out)

    def function(rows: Tensor) -> Tensor:
        inputs = hooks.blank(rows.shape[1])
        carried = _carried_on(hooks, hook_in, hook_out, inputs, rows.transpose(0, 1))
        return carried.flatten(1, -2)[:, :1].transpose(0, 1)

    return HookedLayer(hook_in, hook_out, function, runs_model=True)


@torch.no_grad()
def told(layer: HookedLayer, d_in: int, device: torch.device | str) -> str:
    """By which another layer is told: its hooks, and the size of its output at fixed rows."""
    rows = torch.linspace(-1, 1, 4 * d_in, device=device).reshape(4, d_in)
    return with_size(f"{layer.hook_in} to {layer.hook_out}", layer(rows).double().norm().item())


def _keep_and_stop(seen: list[Tensor]) -> Hook:
    def keep(activation: Tensor) -> None:
        seen.append(activation)
        raise Reached

    return keep


class Injected(NamedTuple):
    """What the model itself computes between two hooks."""

    x: Float[Tensor, "batch *pos d_in"]
    v: Float[Tensor, "batch *pos d_in"]
    y: Float[Tensor, "batch *pos d_out"]
    Jv: Float[Tensor, "batch *pos d_out"]


@torch.no_grad()
def inject(hooks: Hooks, hook_in: str, hook_out: str, tokens: Tokens, *, positions: slice = slice(None)) -> Injected:
    """x, a random v, y and Jv between two hooks, by the model itself: x + v epsilon is put in at `hook_in`, with
    epsilon squared 0, and y + Jv epsilon read at `hook_out` of the same forward pass. v is 0 but at `positions`.

    Raises LayerError where `hook_in` is passed more than once or not before `hook_out`, or where an operation between
    them has no derivative.
    """
    x = _activation(hooks, hook_in, hook_out, tokens)
    v = torch.zeros_like(x)
    generator = torch.Generator(x.device).manual_seed(1)
    v[:, positions] = x.square().mean().sqrt() * rademacher(x[:, positions], 1, generator)[0]
    try:
        y, Jv = forward_jvp(lambda put_in: _carried_on(hooks, hook_in, hook_out, tokens, put_in), x, v)
    except LayerError:
        raise
    except (ValueError, RuntimeError) as error:
        reason = str(error.__cause__ or error).splitlines()[0]
        what = "fused attention, as it seems" if "attention" in reason else "an operation without a derivative"
        raise LayerError(
            f"between {hook_in} and {hook_out} stands {what} ({reason}). Choose hooks around an MLP"
        ) from error
    return Injected(x, v, y, Jv)


def _activation(hooks: Hooks, hook_in: str, hook_out: str, tokens: Tensor) -> Tensor:
    """What `hook_in` carries, if it is passed once and before `hook_out`."""
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

    hooks.visit(tokens, {hook_in: at_input, hook_out: at_output})
    for name in (hook_in, hook_out):
        if name not in passed:
            raise LayerError(f"a run of the model does not pass {name}: choose hooks of the same forward pass")
    if passed.index(hook_out) < passed.index(hook_in):
        raise LayerError(
            f"{hook_out} is passed before {hook_in}: choose the input and the output of one layer, in this order"
        )
    if passed.count(hook_in) > 1:
        raise LayerError(
            f"{hook_in} is passed {passed.count(hook_in)} times before {hook_out} (a hook that is entered again, or a "
            "module that is shared), so there is no one layer after it: choose another hook"
        )
    return seen[0]


def _carried_on(hooks: Hooks, hook_in: str, hook_out: str, tokens: Tensor, put_in: Tensor) -> Tensor:
    """What `hook_out` carries with these activations put in at `hook_in`, one a prompt at all of its positions."""
    seen: list[Tensor] = []

    def put(x: Tensor) -> Tensor:
        if put_in.shape[1] == 1 and put_in.shape[:-1] != x.shape[:-1]:
            return put_in.reshape(len(x), *(1,) * (x.ndim - 2), -1).expand(*x.shape[:-1], -1).to(x.dtype)
        return put_in.to(x.dtype)

    hooks.visit(tokens, {hook_in: put, hook_out: _keep_and_stop(seen)})
    if not seen:
        raise LayerError(f"a run of the model does not pass {hook_out}: choose hooks of the same forward pass")
    return seen[0]


def check_layer(
    hooks: Hooks,
    layer: Callable[[Tensor], Tensor],
    hook_in: str,
    hook_out: str,
    tokens: Tokens | None = None,
) -> None:
    """Runs the model once, with dual numbers put in at `hook_in`, and compares: f(x) with what `hook_out` carries, and
    J_f v with its tangent.

    Args:
        tokens: [batch, pos], or what else the model reads; random by default.

    Raises:
        LayerError: they differ; the message names the likely cause.
        ValueError: there is no such hook.
    """
    hooks.require(hook_in)
    hooks.require(hook_out)
    if tokens is None:
        tokens = hooks.random_tokens()
        _try_run(hooks, hook_in, tokens)
    truth = inject(hooks, hook_in, hook_out, tokens)
    if not all(carried.isfinite().all() for carried in truth):
        raise LayerError(f"the model carries NaN or Inf from {hook_in} to {hook_out}: check its weights and its dtype")
    if _agrees(layer, truth):
        return
    raise LayerError(
        f"the layer is not what the model computes from {hook_in} to {hook_out}: "
        + _likely_cause(hooks, layer, hook_in, hook_out, tokens, truth)
    )


def _try_run(hooks: Hooks, hook_in: str, tokens: Tokens) -> None:
    """Raises LayerError where the model cannot be run on these inputs as far as `hook_in`."""
    try:
        with torch.no_grad():
            hooks.visit(tokens, {hook_in: _keep_and_stop([])})
    except LayerError:
        raise
    except Exception as error:
        raise LayerError(
            f"the model does not run on random inputs {list(tokens.shape)} ({' '.join(str(error).split())}): take the "
            "part of it that the layer is in, or a function of your own"
        ) from error


def _likely_cause(
    hooks: Hooks,
    layer: Callable[[Tensor], Tensor],
    hook_in: str,
    hook_out: str,
    tokens: Tensor,
    truth: Injected,
) -> str:
    if not same_rows(_carried_on(hooks, hook_in, hook_out, tokens, truth.x), truth.y):
        return "the model puts out something else every time that it is run, as with dropout. Call model.eval() first"
    if not truth.Jv.any():
        return f"{hook_out} does not depend on {hook_in} at all. Choose an input hook and an output hook of one layer"
    first_only = inject(hooks, hook_in, hook_out, tokens, positions=slice(0, 1))
    if first_only.Jv[:, 1:].any():
        return (
            "attention lies between them, or a convolution or a recurrence, so that what one token puts out depends on "
            "other tokens. Choose hooks around an MLP"
        )
    for suspect in hooks.suspects(hook_in, hook_out):
        if _agrees(suspect.mended(layer), truth):
            return suspect.cause
    if not _same_in_another_context(hooks, hook_in, hook_out, tokens, truth):
        return (
            f"{hook_out} depends on more than {hook_in} (the residual stream passes by, as it seems, or a router's "
            "choice). Choose hooks around one MLP, before its output is added to anything"
        )
    try:
        layer(truth.x)
    except Exception as error:
        return f"another function stands there; this one fails on such rows ({' '.join(repr(error).split())})"
    return "another function stands there. Use mlp_layer(model, block), or layer_between(model, hook_in, hook_out)"


@torch.no_grad()
def _same_in_another_context(hooks: Hooks, hook_in: str, hook_out: str, tokens: Tensor, truth: Injected) -> bool:
    """Whether the same activations at `hook_in` give the same at `hook_out` after other tokens."""
    other = hooks.random_tokens(len(tokens), tokens.shape[1], seed=2)
    return same_rows(_carried_on(hooks, hook_in, hook_out, other, truth.x), truth.y)


def _agrees(layer: Callable[[Tensor], Tensor], truth: Injected) -> bool:
    rows, v = truth.x.flatten(0, -2), truth.v.flatten(0, -2)
    try:
        y, Jv = layer_jvp(layer, rows, v)
    except Exception:  # a width that does not fit, an argument that is missing: whatever another function may raise
        return False
    return same_rows(y, truth.y.flatten(0, -2)) and same_rows(Jv, truth.Jv.flatten(0, -2))
