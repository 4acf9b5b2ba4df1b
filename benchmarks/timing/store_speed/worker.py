"""One process of a timed training: torchrun starts as many as are wanted. Its argument is JSON."""

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch

from faithfulness_plugin import TopKTrainingTranscoderConfig, train_transcoder
from faithfulness_plugin.store import DerivativeStore, StoredRows
from faithfulness_plugin.training.processes import joined
from faithfulness_plugin.transcoders.seeded import made_with_seed

PROBES = {"probe": "difference"}
WARM_UP = 3


def transcoder_for(store: DerivativeStore, d_sae: int, k: int, seed: int) -> Any:
    """The one that is timed."""
    cfg = TopKTrainingTranscoderConfig(
        d_in=store.index.d_in, d_out=store.index.d_out, d_sae=d_sae, k=k, jacobian=PROBES, jacobian_coefficient=0.5
    )
    return made_with_seed(cfg, seed)


class Timed(StoredRows):
    """Notes when the first batches are through."""

    begun = 0.0

    def __next__(self) -> torch.Tensor:
        if self.batch == WARM_UP:
            self.begun = time.perf_counter()
        return super().__next__()


def main(of: dict[str, Any]) -> None:
    """Trains, and writes seconds and losses into of["result"]."""
    torch.set_num_threads(of["threads"])
    with joined("cpu") as processes:
        store = DerivativeStore.open(of["store"])
        rows = Timed(
            store, PROBES, batch_size=of["batch_size"], seed=of["seed"], rank=processes.rank, processes=processes.size
        )
        trained = train_transcoder(
            transcoder_for(store, of["d_sae"], of["k"], of["seed"]),
            rows.layer,
            rows,
            n_steps=WARM_UP + of["n_steps"],
            lr=1e-3,
            log_every=1,
            progress=False,
        )
        seconds = time.perf_counter() - rows.begun
        if processes.first:
            losses = [record["loss"] for record in trained.history]
            Path(of["result"]).write_text(json.dumps({"seconds": seconds, "losses": losses}))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
