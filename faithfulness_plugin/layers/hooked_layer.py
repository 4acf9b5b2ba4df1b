"""The layer between two hooks of a model, as a function of rows."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from faithfulness_plugin.differences import with_size
from faithfulness_plugin.layers.mlp_weights import mlp_weights
from faithfulness_plugin.layers.normed_mlp import LayerWeights


class HookedLayer:
    """f from `hook_in` to `hook_out`, row-wise: [..., d_in] -> [..., d_out].

    Args:
        hook_in, hook_out: the model's own names.
        function: f on [1, rows, d_in].
        weights: returns the weights where f is an MLP with one hidden layer, whose Jacobian has a closed form.
        runs_model: f puts hooks into the model, or runs hooks on its way in and out. While another thread may run the
            model, `lock` has to be one that it takes too.

    Raises ValueError when a hook on something that it calls calls it again.
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
        """Time spent in f, derivatives in forward mode included; the caller may reset it."""
        self._inside = threading.local()

    def __call__(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_out"]:
        if getattr(self._inside, "now", False):
            raise ValueError(
                f"the layer from {self.hook_in} to {self.hook_out} was called by a hook inside itself, which would "
                "never end: hook another point, or use what the hook is given"
            )
        with self.timed(x.device):
            self._inside.now = True
            try:
                with self.lock:
                    y = self.function(x.reshape(1, x.shape[:-1].numel(), x.shape[-1]))
            finally:
                self._inside.now = False
        return y.reshape(*x.shape[:-1], y.shape[-1])

    @contextmanager
    def timed(self, device: torch.device) -> Iterator[None]:
        """Count the time that is spent inside as the layer's.

        Args:
            device: where the work is done.

        Returns:
            A context.
        """
        begun = _clock(device)
        yield
        self.seconds += _clock(device) - begun

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.hook_in} -> {self.hook_out})"

    def copy(self) -> "HookedLayer":
        """Return the layer with a clock of its own.

        Returns:
            A layer of the same function and lock, with `seconds` at 0.
        """
        copied = HookedLayer(
            self.hook_in, self.hook_out, self.function, weights=self.weights, runs_model=self.runs_model
        )
        copied.lock = self.lock
        return copied


def _clock(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


@mlp_weights.register
def _weights_of_hooked_layer(layer: HookedLayer) -> LayerWeights | None:
    return layer.weights()


@torch.no_grad()
def layer_fingerprint(layer: HookedLayer, d_in: int, device: torch.device | str) -> str:
    """Identify a layer by its hooks and its output norm on fixed rows.

    Args:
        layer: the layer.
        d_in: the width of its input.
        device: where its weights are.

    Returns:
        A text that ends in the norm, which `differences` compares up to rounding.
    """
    rows = torch.linspace(-1, 1, 4 * d_in, device=device).reshape(4, d_in)
    return with_size(f"{layer.hook_in} to {layer.hook_out}", layer(rows).double().norm().item())
