"""A script for torchrun: sparsify's Trainer under DDP, matched, on a CPU. Its argument: a folder for what it finds."""

import json
import sys
from pathlib import Path

import sparsify.trainer
import torch
import torch.distributed
from sparsify_trainer import MLP, trainer_of, weights
from torch.nn.parallel import DistributedDataParallel

from faithfulness_plugin.adapters.sparsify import match_jacobians

if __name__ == "__main__":
    out = Path(sys.argv[1])
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo")
    rank = torch.distributed.get_rank()
    # sparsify names a GPU for each process, and there is none here
    sparsify.trainer.DDP = lambda module, device_ids: DistributedDataParallel(module)  # pyright: ignore
    trainer = trainer_of(out, n_batches=8)
    trainer.dataset = trainer.dataset.shard(2, rank)  # pyright: ignore
    before = weights(trainer)
    matched = match_jacobians(trainer, coefficient=0.5)
    trainer.fit()
    after = weights(trainer)
    found = {
        "weights": {name: weight.tolist() for name, weight in after.items()},
        "relative_error": float(matched.relative_errors[MLP]),
        "moved": sum(float((after[name] - before[name]).abs().sum()) for name in after),
    }
    (out / f"{rank}.json").write_text(json.dumps(found))
    torch.distributed.destroy_process_group()
