"""Any distribution of rows as training data."""

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from faithfulness_plugin.seeds import derived_seed


@runtime_checkable
class RowSource(Protocol):
    """A distribution of rows. Equal sources draw equal rows; those of an ensemble are frozen dataclasses of numbers."""

    @property
    def d_in(self) -> int:
        """Width of a row."""
        ...

    def draw(self, n_rows: int, generator: torch.Generator) -> Float[Tensor, "n_rows d_in"]:
        """Draw independent rows.

        Args:
            n_rows: how many.
            generator: where the numbers come from.

        Returns:
            The rows, on the generator's device.
        """
        ...


class RowInputs:
    """An endless, seeded iterator of a source's batches [batch_size, d_in]; a SAELens DataProvider.

    Args:
        source: what is drawn from.
        batch_size: rows a batch.
        seed: of the draws.
        device: where rows are drawn.

    Raises:
        ValueError: a batch without rows.
    """

    def __init__(
        self, source: RowSource, batch_size: int = 256, seed: int = 0, device: torch.device | str = "cpu"
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size}: a batch has at least one row")
        self.source, self.batch_size, self.seed = source, batch_size, seed
        self._generator = torch.Generator(torch.device(device)).manual_seed(derived_seed(seed, "inputs"))

    def __iter__(self) -> "RowInputs":
        return self

    def __next__(self) -> Float[Tensor, "batch d_in"]:
        return self.source.draw(self.batch_size, self._generator)

    def state_dict(self) -> dict[str, Any]:
        """Return the position: after `load_state_dict` the next batch is the one that would have followed.

        Returns:
            The generator's state, and what is drawn from.
        """
        return {"generator": self._generator.get_state(), "source": repr(self.source)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume a stream.

        Args:
            state: what `state_dict` returned.

        Raises:
            ValueError: the state of another source.
        """
        if state["source"] != repr(self.source):
            raise ValueError(f"the saved position is of other data ({state['source']}): use the same source")
        self._generator.set_state(state["generator"].cpu())
