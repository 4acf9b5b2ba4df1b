"""A script for torchrun: sparsify's Trainer in several processes, matched, on a CPU.

Its arguments: a folder for what it finds; the trainer's options and those of the matching, in JSON.
"""

import json
import sys
from pathlib import Path

import sparsify.trainer
import torch
import torch.distributed
from sparsify_trainer import trainer_of, weights
from torch.nn.parallel import DistributedDataParallel

from faithfulness_plugin.adapters.sparsify import match_jacobians

if __name__ == "__main__":
    out, changed, options = Path(sys.argv[1]), json.loads(sys.argv[2]), json.loads(sys.argv[3])
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo")
    rank = torch.distributed.get_rank()
    # sparsify names a GPU for each process, and there is none here
    sparsify.trainer.DDP = lambda module, device_ids: DistributedDataParallel(module)  # pyright: ignore
    trainer = trainer_of(out, n_batches=8, dtype=torch.float64, **changed)
    trainer.dataset = trainer.dataset.shard(2, rank, contiguous=True)  # pyright: ignore
    trainer.lr_schedulers.clear()  # they count its batches before they are shared out
    before = weights(trainer)
    matched = match_jacobians(trainer, coefficient=0.5, **options)
    trainer.fit()
    after = weights(trainer)
    found = {
        "weights": {name: weight.tolist() for name, weight in after.items()},
        "relative_errors": {name: float(error) for name, error in matched.relative_errors.items()},
        "moved": sum(float((after[name] - before[name]).abs().sum()) for name in after),
    }
    (out / f"{rank}.json").write_text(json.dumps(found))
    torch.distributed.destroy_process_group()
