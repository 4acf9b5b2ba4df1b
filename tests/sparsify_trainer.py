"""A stock trainer of sparsify on a tiny model and random tokens."""

from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from sparsify import SparseCoderConfig, TrainConfig, Trainer
from tiny_models import hugging_face
from torch import Tensor

MLP = "layers.1.mlp"


def trainer_of(
    tmp_path: Path, *, n_batches: int = 4, save_dir: str = "saved", seeds: Any = (0,), **changed: Any
) -> Trainer:
    coder = {"num_latents": 64, "k": 8, "transcode": True, **changed.pop("coder", {})}
    torch.manual_seed(5)
    model = hugging_face("llama").to(torch.float32)
    batch_size = changed.get("batch_size", 4)
    prompts = torch.randint(0, 50, (n_batches * batch_size, 16))
    config = TrainConfig(
        SparseCoderConfig(**coder),
        **{
            "batch_size": batch_size,
            "hookpoints": [MLP],
            "init_seeds": list(seeds),
            "optimizer": "adam",
            "lr": 1e-2,
            "lr_warmup_steps": 0,
            "log_to_wandb": False,
            "save_dir": str(tmp_path / save_dir),
            "run_name": "run",
            **changed,
        },
    )
    return Trainer(config, Dataset.from_dict({"input_ids": prompts.tolist()}).with_format("torch"), model)


def weights(trainer: Trainer) -> dict[str, Tensor]:
    return {f"{n} {w}": p.detach().clone() for n, s in trainer.saes.items() for w, p in s.named_parameters()}
