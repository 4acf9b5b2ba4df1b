"""Rows in random order from a stream, in bounded memory, from a place that can be saved."""

from collections.abc import Iterator, Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from faithfulness_plugin.display import line


class ShuffledRows(Iterator[Tensor]):
    """Draws batches from a buffer that is refilled from a stream.

    Like SAELens's mixing buffer, it serves all but the share `mix_fraction` of its `capacity` rows in random order and
    replaces them by new ones before it draws the next order; with 0 the stream's own order is kept. Unlike there, the
    buffer is filled in place (memory: `capacity` rows, and what the stream yields at a time), and all of the state can
    be saved.

    Args:
        source: yields [rows, width], any number of rows; its place in the stream is not saved here.
        capacity: rows that the buffer holds.
        batch_size: rows a batch.
        mix_fraction: the share of the buffer that stays when it is refilled.
        generator: draws the orders, on the CPU.

    Raises:
        ValueError: a capacity below the batch size, or a share outside [0, 1].
    """

    def __init__(
        self,
        source: Iterator[Float[Tensor, "rows width"]],
        *,
        capacity: int,
        batch_size: int,
        mix_fraction: float,
        generator: torch.Generator,
    ) -> None:
        if capacity < batch_size:
            raise ValueError(
                f"the buffer holds {capacity} rows (n_batches_in_buffer x context_size) and a batch takes {batch_size} "
                "(train_batch_size_tokens): make the buffer larger"
            )
        if not 0 <= mix_fraction <= 1:
            raise ValueError(f"activations_mixing_fraction={mix_fraction} must be between 0 and 1")
        self.source, self.capacity, self.batch_size, self.generator = source, capacity, batch_size, generator
        self.mixed = mix_fraction > 0
        self.round = max(1, int(capacity * (1 - mix_fraction)) // batch_size) * batch_size
        self.buffer: Tensor | None = None
        self.carry: Tensor | None = None
        self.order = torch.arange(capacity)
        self.position = self.round
        self.empty: Tensor | None = self.order
        """Slots to be filled before anything is served: not none where the source has failed meanwhile."""

    def __repr__(self) -> str:
        return line("ShuffledRows", {"capacity": self.capacity, "batch_size": self.batch_size, "mixed": self.mixed})

    def __next__(self) -> Float[Tensor, "batch_size width"]:
        if self.empty is None and self.position + self.batch_size > self.round:
            self.empty = self.order[: self.position]
            self.order = torch.cat([self.order[self.position :], self.empty])
        if self.empty is not None:
            self._fill()
            self._draw()
        assert self.buffer is not None
        rows = self.order[self.position : self.position + self.batch_size]
        self.position += self.batch_size
        return self.buffer[rows.to(self.buffer.device)]

    def _draw(self) -> None:
        if self.mixed:
            self.order = self.order[torch.randperm(self.capacity, generator=self.generator)]
        self.position = 0

    def _fill(self) -> None:
        while self.empty is not None:
            if self.carry is None or not len(self.carry):
                self.carry = next(self.source)
            if self.buffer is None:
                self.buffer = self.carry.new_empty(self.capacity, self.carry.shape[1])
            n = min(len(self.empty), len(self.carry))
            self.buffer[self.empty[:n].to(self.buffer.device)] = self.carry[:n]
            self.carry = self.carry[n:]
            self.empty = self.empty[n:] if n < len(self.empty) else None

    def state_dict(self) -> dict[str, Tensor]:
        """Collect the state, without the source's place.

        Returns:
            Tensors by name.
        """
        state = {
            "order": self.order,
            "position": torch.tensor(self.position),
            "generator": self.generator.get_state(),
        }
        held = {"buffer": self.buffer, "carry": self.carry, "empty": self.empty}
        return state | {name: rows.contiguous() for name, rows in held.items() if rows is not None}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore the state.

        Args:
            state: from `state_dict`.
        """
        self.order, self.position = state["order"].clone(), int(state["position"])
        self.generator.set_state(state["generator"])
        self.buffer, self.carry, self.empty = state.get("buffer"), state.get("carry"), state.get("empty")
