"""Endless batches for training, made of what users have at hand: rows in memory, a DataLoader, a list."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from faithfulness_plugin.differences import differences
from faithfulness_plugin.display import line
from faithfulness_plugin.errors import UsageError
from faithfulness_plugin.seeds import derived_seed

Inputs = Iterator[Tensor] | Iterable[Any] | Tensor | np.ndarray
"""What `train_transcoder` takes as inputs."""


def endless(inputs: Any, batch_size: int | None) -> Iterator[Tensor]:
    """Make the inputs of a training run an endless iterator.

    Args:
        inputs: an iterator, which is returned as it is; rows [n, d_in], of which shuffled batches are cut; or anything
            that can be iterated again and again, such as a DataLoader or a list of batches.
        batch_size: rows of a batch; needed for rows.

    Returns:
        An iterator of batches.

    Raises:
        UsageError: rows without a batch size, or fewer of them than one batch has; anything else.
    """
    if isinstance(inputs, Tensor | np.ndarray):
        if batch_size is None:
            raise UsageError(f"the inputs are rows of shape {list(inputs.shape)}: pass batch_size= as well")
        return ShuffledBatches(torch.as_tensor(inputs), batch_size)
    if hasattr(inputs, "__next__"):
        return inputs
    if isinstance(inputs, Iterable) and not isinstance(inputs, str | bytes | Mapping):
        return _again_and_again(inputs)
    raise UsageError(
        f"the inputs are of type {type(inputs).__name__}: pass rows [n, d_in], an endless iterator of batches such as "
        "AbsInputs, or a DataLoader"
    )


class ShuffledBatches(Iterator[Tensor]):
    """Endless batches of rows in memory: every row once an epoch, in a seeded order.

    Batches are cut from the stream of epoch after epoch, so that the n-th one is known from n: a resumed run continues
    in it.

    Args:
        rows: what batches are made of.
        batch_size: rows per batch.
        seed: seeds the order.

    Raises:
        UsageError: rows that are no matrix, or are fewer than a batch has.

    Example:
        >>> batches = ShuffledBatches(torch.arange(4.0)[:, None], batch_size=2)
        >>> torch.cat([next(batches), next(batches)]).flatten().sort().values
        tensor([0., 1., 2., 3.])
    """

    def __init__(self, rows: Float[Tensor, "rows d_in"], batch_size: int, seed: int = 0) -> None:
        if rows.ndim != 2 or not 1 <= batch_size <= len(rows):
            raise UsageError(
                f"batches of {batch_size} cannot be cut from inputs of shape {list(rows.shape)}: pass rows [n, d_in], "
                "and a batch_size of n at most"
            )
        self.rows, self.batch_size, self.seed = rows, batch_size, seed
        self.batch = 0
        """How many batches were served."""
        self._epoch, self._order = -1, torch.empty(0, dtype=torch.long)

    def __repr__(self) -> str:
        return line("ShuffledBatches", {"rows": self.rows, "batch_size": self.batch_size, "batch": self.batch})

    @override
    def __next__(self) -> Float[Tensor, "batch_size d_in"]:
        place, parts = self.batch * self.batch_size, []
        end = place + self.batch_size
        while place < end:
            epoch, start = divmod(place, len(self.rows))
            if epoch != self._epoch:
                generator = torch.Generator().manual_seed(derived_seed(self.seed, f"order of rows, epoch {epoch}"))
                self._epoch, self._order = epoch, torch.randperm(len(self.rows), generator=generator)
            parts.append(self._order[start : start + end - place])
            place += len(parts[-1])
        self.batch += 1
        return self.rows[torch.cat(parts).to(self.rows.device)]

    def state_dict(self) -> dict[str, int]:
        """Return the place in the stream.

        Returns:
            What `load_state_dict` takes.
        """
        return {"batch": self.batch, **self._settings}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Continue from a place.

        Args:
            state: what `state_dict` returned.

        Raises:
            UsageError: the place is one in other rows, or in another order.
        """
        if changed := differences({**state, "batch": 0}, {"batch": 0, **self._settings}):
            raise UsageError(f"the saved position is of other data ({changed}): pass the same rows")
        self.batch = state["batch"]

    @property
    def _settings(self) -> dict[str, int]:
        return {"n_rows": len(self.rows), "batch_size": self.batch_size, "seed": self.seed}


def _again_and_again(batches: Iterable[Any]) -> Iterator[Tensor]:
    while True:
        empty = True
        for batch in batches:
            empty = False
            yield _rows_of(batch)
        if empty:
            raise UsageError(f"the inputs, a {type(batches).__name__}, hold no batch: pass at least one")


def _rows_of(batch: Any) -> Tensor:
    """Return the rows of a batch; a DataLoader on a TensorDataset yields them in a list."""
    if isinstance(batch, list | tuple) and len(batch) == 1:
        batch = batch[0]
    if isinstance(batch, np.ndarray):
        batch = torch.from_numpy(batch)
    if not isinstance(batch, Tensor):
        raise UsageError(
            f"a batch of the inputs is a {type(batch).__name__}{_parts(batch)}: yield rows [batch, d_in] alone, as the "
            "layer gives what they are compared with"
        )
    return batch


def _parts(batch: Any) -> str:
    return f" of {len(batch)}" if isinstance(batch, list | tuple) else ""
