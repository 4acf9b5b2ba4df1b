"""A stock trainer of sparsify on a tiny model and random tokens."""

from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from sparsify import SparseCoderConfig, TrainConfig, Trainer
from tiny_models import hugging_face
from torch import Tensor

MLP = "layers.1.mlp"
MLPS = ["layers.0.mlp", MLP]


def trainer_of(
    tmp_path: Path,
    *,
    n_batches: int = 4,
    save_dir: str = "saved",
    seeds: Any = (0,),
    model: str = "llama",
    dtype: torch.dtype = torch.float32,
    **changed: Any,
) -> Trainer:
    coder = {"num_latents": 64, "k": 8, "transcode": True, **changed.pop("coder", {})}
    torch.manual_seed(5)
    whole = hugging_face(model).to(dtype)
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
    trainer = Trainer(config, Dataset.from_dict({"input_ids": prompts.tolist()}).with_format("torch"), whole)
    for coder in trainer.saes.values():
        coder.to(dtype)
    return trainer


def grown(trainer: Trainer) -> Trainer:
    """With weights as in the midst of training, which the first batch leaves as they are; the same every time."""
    trainer.cfg.finetune = "these weights"
    torch.manual_seed(3)
    with torch.no_grad():
        for coder in trainer.saes.values():
            for weight in coder.parameters():
                weight.normal_(std=0.2)
    return trainer


def gradients_at_step(trainer: Trainer) -> dict[str, Tensor]:
    """What `fit` has gathered when its optimizer is to step, which it does not."""
    found: dict[str, Tensor] = {}

    def step() -> None:
        for name, coder in trainer.saes.items():
            grads = {w: p.grad for w, p in coder.named_parameters() if p.grad is not None}
            found.update({f"{name} {w}": grad.clone() for w, grad in grads.items()})

    trainer.optimizers[0].step = step  # pyright: ignore[reportAttributeAccessIssue]
    trainer.fit()
    return found


def weights(trainer: Trainer) -> dict[str, Tensor]:
    return {f"{n} {w}": p.detach().clone() for n, s in trainer.saes.items() for w, p in s.named_parameters()}
