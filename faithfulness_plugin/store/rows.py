"""Batches from a store: every row once an epoch, in an order that only its settings decide, in bounded memory."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from faithfulness_plugin.differences import differences
from faithfulness_plugin.display import line
from faithfulness_plugin.jacobian.layer_response import LayerResponse
from faithfulness_plugin.jacobian.matching_config import JacobianMatchingConfig
from faithfulness_plugin.jacobian.packed_rows import PackedRows
from faithfulness_plugin.seeds import derived_seed
from faithfulness_plugin.store.index import StoreError
from faithfulness_plugin.store.layer_file import require_reproduced
from faithfulness_plugin.store.store import DerivativeStore

FIRST_ROWS = 32


class StoredRows(Iterator[Tensor]):
    """Endless batches of packed rows [batch_size / processes, width], for `train_transcoder(t, rows.layer, rows)`.

    An epoch takes the shards in random order, `window` of them in memory at a time with their rows mixed. Batches are
    cut from the stream of epoch after epoch, so that the n-th batch is known from n: a resumed run continues in it, on
    any number of processes. Process `rank` of `processes` gets its share of every batch.

    Args:
        store: a full store.
        product: which derivatives come with the rows; None for x and f(x) alone. A store that keeps the layer's weights
            brings x and f(x) for any, and the transcoder's own config decides.
        batch_size: rows per step, of all processes together.
        seed: seeds the order.
        window: the number of shards in memory.

    Raises:
        StoreError: a store that is not full or does not keep the product; weights that are not as they were written; a
            batch that is larger than the store or cannot be shared equally; a rank that no process has.
    """

    def __init__(
        self,
        store: DerivativeStore,
        product: JacobianMatchingConfig | Mapping[str, Any] | None,
        *,
        batch_size: int,
        seed: int = 0,
        window: int = 4,
        rank: int = 0,
        processes: int = 1,
    ) -> None:
        index = store.index
        if not index.full:
            raise StoreError(
                f"{store.folder} is not full ({len(index.shards)} of {index.n_shards} shards): fill it first"
            )
        if not 1 <= batch_size <= index.n_rows:
            raise StoreError(
                f"batch_size={batch_size}: {store.folder} has {index.n_rows} rows; choose 1 to {index.n_rows}"
            )
        if not 0 <= rank < processes:
            raise StoreError(f"rank={rank}: {processes} processes have the ranks 0 to {processes - 1}")
        require_shares(batch_size, processes)
        if window < 1:
            raise StoreError(f"window={window}: one shard or more is in memory")
        self.store, self.batch_size, self.seed, self.window = store, batch_size, seed, window
        self.rank, self.processes = rank, processes
        known = store.layer() if index.weights else None
        self._product = None if product is None or known is not None else store.product(product)
        kept = None if self._product is None else self._product.config
        step = 1.0 if kept is None else kept.build_estimator().step(index.rms or 1.0)
        self.layer = PackedRows(index.d_in, index.d_out, kept, step, known)
        self.batch = 0
        """The number of batches that were served."""
        self._epoch: int | None = None
        self._at: tuple[int, int] | None = None
        self._in_memory: dict[str, Tensor] = {}

    def __repr__(self) -> str:
        product = self._product and str(self._product)
        said = {"store": self.store.folder, "product": product, "batch_size": self.batch_size, "batch": self.batch}
        share = {"rank": self.rank, "processes": self.processes} if self.processes > 1 else {}
        return line("StoredRows", {**said, "window": self.window, "seed": self.seed, **share})

    def __next__(self) -> Float[Tensor, "rows width"]:
        share = self.batch_size // self.processes
        begin = self.batch * self.batch_size + self.rank * share
        parts = self._stream(begin, begin + share)
        self.batch += 1
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _stream(self, begin: int, end: int) -> list[Tensor]:
        """Read rows of the endless stream."""
        parts = []
        while begin < end:
            epoch, place = divmod(begin, self.store.index.n_rows)
            self._order(epoch)
            number = int(torch.searchsorted(self._ends, place, right=True))
            start = int(self._ends[number - 1]) if number else 0
            taken = min(end - begin, int(self._ends[number]) - place)
            parts.append(self._rows(epoch, number, place - start, taken))
            begin += taken
        return parts

    def _order(self, epoch: int) -> None:
        """Decide which shards make each window of an epoch, and where the windows end."""
        if self._epoch == epoch:
            return
        index = self.store.index
        order = torch.randperm(index.n_shards, generator=self._generator(f"epoch {epoch}")).tolist()
        self._windows = [order[i : i + self.window] for i in range(0, len(order), self.window)]
        lengths = [sum(index.shards[shard].rows for shard in window) for window in self._windows]
        self._ends, self._epoch = torch.tensor(lengths).cumsum(0), epoch

    def _rows(self, epoch: int, number: int, start: int, taken: int) -> Tensor:
        if self._at != (epoch, number):
            self._in_memory = {}  # before the next is read
            shards = [self.store.read_shard(shard, self._product) for shard in self._windows[number]]
            # one kind of tensor after the other, so that not all of it is there twice
            self._in_memory = {name: torch.cat([shard.pop(name) for shard in shards]) for name in list(shards[0])}
            n_rows = len(self._in_memory["x"])
            self._mixed = torch.randperm(n_rows, generator=self._generator(f"epoch {epoch} window {number}"))
            self._require_weights()
            self._at = (epoch, number)
        rows = self._mixed[start : start + taken]
        part = {name: tensor[rows] for name, tensor in self._in_memory.items()}
        if self._product is not None:
            part |= {name: part[name].movedim(1, 0) for name in ("v", "Jv")}
        return self.layer.pack(LayerResponse(part["x"], part["y"], part.get("v"), part.get("Jv")))

    def _require_weights(self) -> None:
        """Check, at the first rows that are read, that the weights are those of their layer."""
        if self._at is None and self.layer.known is not None:
            x, y = (self._in_memory[name][:FIRST_ROWS] for name in ("x", "y"))
            known = self.layer.known.to(x.device)
            require_reproduced(known.weights, x, y, f"{self.store.folder} holds another layer's: fill a new store")

    def _generator(self, use: str) -> torch.Generator:
        return torch.Generator().manual_seed(derived_seed(self.seed, f"stored rows, {use}"))

    def state_dict(self) -> dict[str, int | str]:
        """Return the place in the stream, for any number of processes.

        Returns:
            The number of batches that were served, and what decides the order of rows.
        """
        return {"batch": self.batch, **self._stream_settings}

    def load_state_dict(self, state: Mapping[str, int | str]) -> None:
        """Continue from a place.

        Args:
            state: what `state_dict` returned, in this version or 0.8.

        Raises:
            StoreError: a place in another stream.
        """
        if state.get("store") == self.store.index.fingerprint_with_sizes:  # as version 0.8 wrote it
            state = {**state, "store": self.store.index.fingerprint, **self.store.index.sized}
        if changed := differences(state, self._stream_settings):
            raise StoreError(
                f"the saved position is of another order of rows ({changed}): read the same store with equal settings"
            )
        self.batch = int(state["batch"])

    @property
    def _stream_settings(self) -> dict[str, int | str]:
        return {
            "batch_size": self.batch_size, "seed": self.seed, "window": self.window, "rows": self.store.index.n_rows,
            "store": self.store.index.fingerprint, **self.store.index.sized,
        }  # fmt: skip


def require_shares(batch_size: int, processes: int) -> None:
    """Check that processes can share a batch in equal parts.

    Args:
        batch_size: the rows of a batch.
        processes: how many processes share it.

    Raises:
        StoreError: they cannot.
    """
    if processes > batch_size:
        raise StoreError(
            f"{processes} processes share batches of {batch_size} rows: start fewer of them, or raise batch_size"
        )
    if batch_size % processes:
        raise StoreError(f"batch_size={batch_size} is no multiple of the {processes} processes: choose one")
