"""A script for torchrun: trains transcoders from a store, in however many processes it is started.

Its argument is a list of jobs as JSON, each with "store", "kind", "n_steps", "checkpoint", "result" (written by the
first process), and "stop", after how many batches it should stop as if it were interrupted.
"""

import json
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

import faithfulness_plugin as plugin
from faithfulness_plugin.store import DerivativeStore, StoredRows, StoreError
from faithfulness_plugin.training.processes import ProcessError, Processes, joined
from faithfulness_plugin.transcoders.seeded import made_with_seed

DIFFERENCES = {"probe": "difference"}
CONFIGS: dict[str, Any] = {
    "topk": lambda **of: plugin.TopKTrainingTranscoderConfig(k=4, jacobian=DIFFERENCES, **of),
    "topk with gates": lambda **of: plugin.TopKTrainingTranscoderConfig(
        k=4, jacobian={**DIFFERENCES, "gate_bandwidth": 0.5}, **of
    ),
    "standard with skip": lambda **of: plugin.StandardTrainingTranscoderConfig(skip=True, jacobian=DIFFERENCES, **of),
    "jumprelu": lambda **of: plugin.JumpReLUTrainingTranscoderConfig(jacobian=DIFFERENCES, **of),
}

ANY_PROBE: dict[str, Any] = {
    "all directions": lambda **of: plugin.TopKTrainingTranscoderConfig(k=4, jacobian={"estimator": "exact"}, **of),
    "pairs": lambda **of: plugin.TopKTrainingTranscoderConfig(k=4, jacobian={"probe": "pair"}, **of),
    "signs": lambda **of: plugin.StandardTrainingTranscoderConfig(jacobian={"probe": "rademacher"}, **of),
}
"""For stores that keep the layer's weights: probes are drawn in training."""


class Stopping(StoredRows):
    stop: int | None = None

    def __next__(self) -> torch.Tensor:
        if self.batch == self.stop:
            raise KeyboardInterrupt
        return super().__next__()


def main(jobs: list[dict[str, Any]]) -> None:
    torch.set_num_threads(1)
    with joined("cpu") as processes:
        for job in jobs:
            with suppress(KeyboardInterrupt):
                train(job, processes)


def train(of: dict[str, Any], processes: Processes) -> None:
    cfg = (CONFIGS | ANY_PROBE)[of["kind"]](d_in=6, d_sae=40, dtype="float64", jacobian_coefficient=1.0)
    transcoder = made_with_seed(cfg, 0)
    rows = Stopping(
        DerivativeStore.open(of["store"]),
        cfg.jacobian,
        batch_size=of.get("batch_size", 24),
        window=2,
        rank=processes.rank,
        processes=processes.size,
    )
    rows.stop = of.get("stop")
    trained = plugin.train_transcoder(
        transcoder,
        rows.layer,
        rows,
        n_steps=of["n_steps"],
        log_every=5,
        dead_feature_window=4,
        checkpoint=of["checkpoint"],
        checkpoint_every=10,
        resume=True,
    )
    if processes.first:
        weights = {name: weight.tolist() for name, weight in transcoder.state_dict().items()}
        found = {"history": trained.history, "weights": weights, "l0": transcoder.cfg.metadata.l0}
        Path(of["result"]).write_text(json.dumps({"processes": processes.size, **found}))


if __name__ == "__main__":
    try:
        main(json.loads(sys.argv[1]))
    except (ProcessError, StoreError) as error:
        sys.exit(f"error: {error}")
