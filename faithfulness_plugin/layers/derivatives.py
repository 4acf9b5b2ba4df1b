"""The layer that a transcoder replaces: its output and its directional derivatives."""

import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

import torch
from jaxtyping import Float
from torch import Tensor, nn

from faithfulness_plugin.layers.never_compiled import never_compiled
from faithfulness_plugin.layers.probe_shape import each_probe

Layer = Callable[[Tensor], Tensor]
"""The function that is replaced, row-wise: [..., d_in] -> [..., d_out]. Any callable. Of an nn.Module, its `forward`:
the module's own forward hooks are not run (its submodules' are), so that a layer can be matched inside one of them."""

# Forward-mode AD keeps one global level per process: two threads inside it break each other.
FORWARD_AD_LOCK = threading.RLock()

# Parts of torch's messages about forward mode: an operation without a rule, or a level that the caller has opened.
NO_FORWARD_MODE = ("forward AD", "forward mode AD", "jvp")


def bare(function: Layer) -> Layer:
    """Return what a module computes, past `torch.compile`'s wrapper and the hooks on the module itself.

    Args:
        function: a module or any other callable.

    Returns:
        The module's `forward`, or the callable itself.
    """
    module = getattr(function, "_orig_mod", function)
    return module.forward if isinstance(module, nn.Module) else module


@contextmanager
def mismatch_explained(function: Layer, x: Tensor) -> Iterator[None]:
    """Turn torch's error about operands on different devices or of different dtypes into one that says what to do.

    Args:
        function: what is called in the block; a module's weights are named in the message.
        x: what it is called on.

    Yields:
        Nothing.

    Raises:
        ValueError: such an error arose in the block.
    """
    try:
        yield
    except RuntimeError as error:
        message = str(error).splitlines()[0]
        what = next((what for what in ("dtype", "device") if what in message), None)
        if what is None or isinstance(error, torch.OutOfMemoryError):
            raise
        module, ours = getattr(function, "__self__", function), getattr(x, what)
        weights = module.named_parameters() if isinstance(module, nn.Module) else ()
        named = (
            f"{type(module).__name__}'s {n} has {getattr(w, what)}" for n, w in weights if getattr(w, what) != ours
        )
        theirs = next(named, "what they meet has another")
        raise ValueError(
            f"the inputs have {what} {ours} and {theirs} ({message}): bring both to one {what}, with .to(...)"
        ) from error


@torch.no_grad()
def layer_output(layer: Layer, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_out"]:
    """Compute f(x), without a graph.

    Args:
        layer: any callable, row-wise.
        x: the rows.

    Returns:
        f(x).

    Raises:
        ValueError: a layer on another device or of another dtype.
    """
    with mismatch_explained(layer, x):
        return bare(layer)(x)  # [..., d_out]


@never_compiled
@torch.no_grad()
def layer_jvp(
    layer: Layer, x: Float[Tensor, "*batch d_in"], v: Float[Tensor, "*probes_batch d_in"]
) -> tuple[Float[Tensor, "*batch d_out"], Float[Tensor, "*probes_batch d_out"]]:
    """Compute the layer's output and its derivative along v: (f(x), J_f(x) v).

    One forward-mode pass a probe; exact, no graph is kept, the layer's parameters get no gradient. A layer with an
    operation that has no forward-mode rule is differentiated twice in reverse instead: equal, and slower.

    Args:
        layer: any callable, row-wise.
        x: where it is differentiated.
        v: one probe a row, of x's shape, or several, with n_probes in front.

    Returns:
        y [..., d_out] and Jv [..., d_out], or [n_probes, ..., d_out] for several probes.

    Raises:
        ValueError: v is neither of x's shape nor of x's shape with n_probes in front, or the layer can be
            differentiated neither way.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> layer = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
        >>> x, v = torch.randn(2, 3, dtype=torch.float64)
        >>> y, Jv = layer_jvp(layer, x, v)
        >>> torch.testing.assert_close(Jv, torch.func.jacrev(layer)(x).detach() @ v)
    """
    with mismatch_explained(layer, x):
        return forward_jvp(layer, _normal(x), v)


@never_compiled
@torch.no_grad()
def layer_vjp(
    layer: Layer, x: Float[Tensor, "*batch d_in"], u: Float[Tensor, "*probes_batch d_out"]
) -> tuple[Float[Tensor, "*batch d_out"], Float[Tensor, "*probes_batch d_in"]]:
    """Compute the layer's output and its derivative pulled back along u: (f(x), J_f(x)^T u). No graph is kept.

    Args:
        layer: any callable, row-wise.
        x: where it is differentiated.
        u: one output direction a row, [..., d_out], or several, [n_probes, ..., d_out].

    Returns:
        y [..., d_out] and J^T u [..., d_in], or [n_probes, ..., d_in] for several directions.

    Raises:
        ValueError: u does not fit the layer's output, or that does not depend on x through autograd.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> layer, x, v, u = nn.Linear(3, 2), torch.randn(3), torch.randn(3), torch.randn(2)
        >>> Jv, JTu = layer_jvp(layer, x, v)[1], layer_vjp(layer, x, u)[1]
        >>> torch.testing.assert_close(u @ Jv, JTu @ v)
    """
    with mismatch_explained(layer, x):
        return reverse_vjp(layer, _normal(x), u)


@never_compiled
def forward_jvp(
    function: Layer, x: Float[Tensor, "*batch d_in"], v: Float[Tensor, "*probes_batch d_in"]
) -> tuple[Float[Tensor, "*batch d_out"], Float[Tensor, "*probes_batch d_out"]]:
    """Compute (function(x), J v) by forward-mode AD, or by `double_vjp` where an operation has no forward-mode rule.

    Args:
        function: any callable, row-wise.
        x: where it is differentiated.
        v: as in `layer_jvp`; cast to the dtype of x.

    Returns:
        As `layer_jvp`, with a graph where gradients are on.

    Raises:
        ValueError: as `layer_jvp`.
    """
    function, probes = bare(function), [probe.to(x.dtype) for probe in each_probe(x, v)]
    try:
        with FORWARD_AD_LOCK:
            _load_forward_rules()
            pairs = [torch.func.jvp(function, (x,), (probe,))[:2] for probe in probes]  # (y, Jv) each
    except (NotImplementedError, RuntimeError) as error:
        if not any(sign in str(error) for sign in NO_FORWARD_MODE):
            raise
        return double_vjp(function, x, v, because=error)
    products = [Jv for _, Jv in pairs]
    return pairs[0][0], products[0] if v.ndim == x.ndim else torch.stack(products)  # [(n_probes,) ..., d_out]


@cache
def _load_forward_rules() -> None:
    """Let torch load its forward-mode rules, as its first product does. They are compiled by `torch.jit.script`, which
    torch deprecates with a warning: users can do nothing about it."""
    # once a process: filters of warnings are global
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`torch.jit.script` is ")
        torch.func.jvp(torch.clone, (torch.zeros(1),), (torch.zeros(1),))


@never_compiled
def double_vjp(
    function: Layer,
    x: Float[Tensor, "*batch d_in"],
    v: Float[Tensor, "*probes_batch d_in"],
    *,
    because: Exception | None = None,
) -> tuple[Float[Tensor, "*batch d_out"], Float[Tensor, "*probes_batch d_out"]]:
    """Compute (function(x), J v) by two passes in reverse: J^T u is linear in u, and its own transposed product along v
    is J v.

    It is for functions without forward-mode rules, and needs no global state.

    Args:
        function: any callable, row-wise.
        x: where it is differentiated.
        v: as in `layer_jvp`; cast to the dtype of x.
        because: the error of forward mode, which the message then gives as the reason.

    Returns:
        As `layer_jvp`, with a graph where gradients are on.

    Raises:
        ValueError: reverse mode fails as well.

    Example:
        >>> x, v = torch.tensor([1.0, 2.0]), torch.tensor([1.0, -1.0])
        >>> torch.testing.assert_close(double_vjp(lambda x: x**3, x, v)[1], 3 * x**2 * v)
    """
    keep, probes = torch.is_grad_enabled(), [probe.to(x.dtype) for probe in each_probe(x, v)]
    try:
        with torch.inference_mode(False), torch.enable_grad():
            y, point = _at_leaf(bare(function), x)
            u = torch.zeros_like(y, requires_grad=True)  # any value does: J^T u is linear in u
            (pulled,) = torch.autograd.grad(y, point, u, create_graph=True)  # J^T u, [..., d_in]
            products = _each_grad(pulled, u, probes, keep)  # d <J^T u, v> / du = J v, [..., d_out]
    except (NotImplementedError, RuntimeError) as error:
        reason = str(because or error).splitlines()[0]
        raise ValueError(
            "the derivative along v can be computed neither forward nor twice in reverse, because an operation of the "
            f'function does not support it ({reason}): use estimator="secant", which needs no derivative, or "vjp"'
        ) from error
    # a caller without gradients gets none, though the passes needed them
    return y if keep else y.detach(), products[0] if v.ndim == x.ndim else torch.stack(products)


@never_compiled
def reverse_vjp(
    function: Layer, x: Float[Tensor, "*batch d_in"], u: Float[Tensor, "*probes_batch d_out"]
) -> tuple[Float[Tensor, "*batch d_out"], Float[Tensor, "*probes_batch d_in"]]:
    """Compute (function(x), J^T u) in reverse mode.

    Args:
        function: any callable, row-wise.
        x: where it is differentiated.
        u: as in `layer_vjp`; cast to the dtype of the output.

    Returns:
        As `layer_vjp`, with a graph where gradients are on.

    Raises:
        ValueError: as `layer_vjp`.
    """
    keep = torch.is_grad_enabled()
    with torch.inference_mode(False), torch.enable_grad():
        y, point = _at_leaf(bare(function), x)
        probes = [probe.to(y.dtype) for probe in each_probe(y, u)]  # each of y's shape
        products = _each_grad(y, point, probes, keep)  # d <y, u> / dx = J^T u, [..., d_in]
    # a caller without gradients gets none, though autograd was on
    products = products if keep else [product.detach() for product in products]
    return y if keep else y.detach(), products[0] if u.ndim == y.ndim else torch.stack(products)


def _each_grad(of: Tensor, by: Tensor, probes: list[Tensor], keep: bool) -> list[Tensor]:
    """Differentiate each <of, probe>; keep the graph, or let the last one free it."""
    last = len(probes) - 1  # whose backward pass may free the graph
    # the products come probe by probe: batching them (vmap) would ask more of the function
    return [
        torch.autograd.grad(of, by, probe, create_graph=keep, retain_graph=keep or i < last)[0]
        for i, probe in enumerate(probes)
    ]


def _at_leaf(function: Layer, x: Tensor) -> tuple[Tensor, Tensor]:
    """Compute function(x) at a leaf by which it can be differentiated; return both."""
    point = (x.clone() if x.is_inference() else x).detach().requires_grad_()
    y = function(point)
    if not y.requires_grad:
        raise ValueError(
            "the output does not depend on x through autograd, so it has no derivative: "
            "take .detach(), torch.no_grad() and the like out of the function"
        )
    return y, point


def _normal(x: Tensor) -> Tensor:
    """Copy inference tensors, which autograd refuses together with parameters that require a gradient."""
    return x.clone() if x.is_inference() and not torch.is_inference_mode_enabled() else x
