"""A layer that several transcoders ask in turn about one batch: f(x) and its derivatives are computed once."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from faithfulness_plugin.layers.hooked_layer import HookedLayer
from faithfulness_plugin.layers.layer_weights import MlpWeights, Read
from faithfulness_plugin.layers.normed_mlp import LayerWeights, NormedMlp

TOO_FEW = 64
"""Fewer rows than these are a check of a few rows, and not the batch."""


class SharedLayer(HookedLayer):
    """A layer that remembers its answers about the last batch until it is asked about another one.

    A batch is recognised by being the same tensor, so that its rows must not be changed in place; probes are recognised
    by their values. Transcoders that ask about it one after another get what each would have got alone, to the bit:
    f(x) of the layer itself and f(x) of its weights stand for each other only where a first batch has shown that they
    are equal in every bit.

    Args:
        layer: the layer.
        turn: shared by the layers of a run; the layer that was asked last stands in it. When another one is asked, that
            one forgets, so that answers of one layer are held at a time.
    """

    def __init__(self, layer: HookedLayer, turn: "list[SharedLayer]") -> None:
        super().__init__(
            layer.hook_in, layer.hook_out, layer.function, weights=self._weights_once, runs_model=layer.runs_model
        )
        self.lock, self._layer, self._turn = layer.lock, layer, turn
        self._products = Products()

    @override
    def __call__(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_out"]:
        if x.requires_grad or x.shape[:-1].numel() < TOO_FEW:
            return super().__call__(x)
        self._take_turn()
        of = self._products
        if of.alike and (weights := self._weights_once()) is not None:  # which keeps what derivatives need as well
            return weights.write(weights.read(x))
        if of.asked is not x or of.answer is None:
            of.asked, of.answer = x, super().__call__(x)
            of.compare()
        return of.answer

    @override
    def copy(self) -> HookedLayer:
        """Return the layer itself, which remembers nothing, with a clock of its own."""
        copied = self._layer.copy()
        copied.lock = self.lock
        return copied

    def forget(self) -> None:
        """Drop what was answered."""
        self._products.forget()
        self._products.asked = self._products.answer = None

    def _take_turn(self) -> None:
        if self._turn and self._turn[0] is not self:
            self._turn[0].forget()
        self._turn[:] = [self]

    def _weights_once(self) -> LayerWeights | None:
        weights = self._layer.weights()
        if weights is None:
            return None
        self._take_turn()
        once = NormedMlpOnce(*weights) if isinstance(weights, NormedMlp) else MlpOnce(*weights)
        once.products = self._products
        return once


class Products:
    """What a layer, and its weights, made of the last batch."""

    alike: bool | None = None
    """Whether f(x) of the layer and of its weights are equal in every bit; None before that was seen."""
    asked: Tensor | None = None
    """The batch that the layer itself was asked about."""
    answer: Tensor | None = None
    """Its f(x)."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Drop what the weights made of a batch."""
        self.x: Tensor | None = None
        self.read: Read = ()
        self.y: Tensor | None = None
        self.known: list[tuple[str, Sequence[Tensor], Any]] = []

    def begin(self, x: Tensor, read: Read) -> None:
        """Take the next batch.

        Args:
            x: its rows.
            read: what the input matrices made of them.
        """
        self.forget()
        self.x, self.read = x, read

    def found(self, y: Tensor) -> Tensor:
        """Keep f(x) of the batch, computed from the weights.

        Args:
            y: f(x).

        Returns:
            f(x).
        """
        if self.y is None:
            self.y = y
            self.compare()
        return self.y

    def compare(self) -> None:
        """See once whether both ways to f(x) are equal in every bit."""
        if self.alike is None and self.asked is self.x and self.y is not None and self.answer is not None:
            self.alike = torch.equal(self.y, self.answer)

    def once(self, what: str, asked: Sequence[Tensor], answer: Callable[[], Any]) -> Any:
        """Return the answer to the same question about this batch, or ask.

        Args:
            what: the name of the question.
            asked: what it is about.
            answer: computes the answer.

        Returns:
            The answer.
        """
        if self.x is None or asked[0].shape[:-1].numel() < self.x.shape[:-1].numel():
            return answer()
        for known, of, found in self.known:
            if known == what and len(of) == len(asked) and all(map(_same, of, asked)):
                return found
        found = answer()
        self.known.append((what, list(asked), found))
        return found


class _Once:
    """Weights whose products are those that they remember, where the batch is the last one."""

    products: Products

    def read(self, x: Float[Tensor, "*batch d_in"]) -> Read:
        ask: Any = super()
        if x.shape[:-1].numel() < TOO_FEW:
            return ask.read(x)
        if self.products.x is not x:
            self.products.begin(x, ask.read(x))
        return self.products.read

    def read_direction(self, v: Float[Tensor, "*batch d_in"]) -> Read:
        ask: Any = super()
        return self.products.once("read_direction", [v], lambda: ask.read_direction(v))

    def write(self, read: Read) -> Float[Tensor, "*batch d_out"]:
        ask: Any = super()
        of = self.products
        if read is not of.read:
            return of.once("write", read, lambda: ask.write(read))
        return of.found(ask.write(read)) if of.y is None else of.y

    def push(
        self, read: Read, directions: Iterable[Read], y: Float[Tensor, "*batch d_out"] | None = None
    ) -> tuple[Float[Tensor, "*batch d_out"], list[Float[Tensor, "*batch d_out"]]]:
        ask: Any = super()
        of, products = self.products, list[Tensor]()
        if read is not of.read:
            return ask.push(read, directions, y)
        for of_v in directions:
            known = of.y if y is None else y
            made, pushed = of.once("push", of_v, lambda v=of_v, known=known: ask.push(read, [v], known))
            products += pushed
            if y is None:
                of.found(made)
        return self.write(read) if y is None else y, products


class MlpOnce(_Once, MlpWeights):
    """An MLP's weights, which remember."""


class NormedMlpOnce(_Once, NormedMlp):
    """Those of an MLP with a norm after it."""


def _same(one: Tensor, other: Tensor) -> bool:
    return one is other or (one.shape == other.shape and torch.equal(one, other))
