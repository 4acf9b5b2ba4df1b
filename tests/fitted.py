"""Transcoders that are good at a map, without training."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from faithfulness_plugin.transcoders.formats.parts import transcoder_of


def fitted(x: Tensor, y: Tensor, *, seed: int = 0, **metadata: Any) -> Any:
    """Random ReLU features with a least-squares decoder: a transcoder that is good at x -> y."""
    generator, d_sae = torch.Generator().manual_seed(seed), 96
    W_enc = (
        torch.randn(x.shape[1], d_sae, generator=generator, dtype=torch.float64) / x.std(0).mean() / x.shape[1] ** 0.5
    )
    b_enc = 0.5 * torch.randn(d_sae, generator=generator, dtype=torch.float64) - x.mean(0) @ W_enc
    acts = torch.relu(x @ W_enc + b_enc)
    A = torch.cat([acts, torch.ones(len(x), 1, dtype=torch.float64)], 1)
    gram = A.T @ A + 1e-4 * len(x) * torch.eye(A.shape[1], dtype=torch.float64)
    W = torch.linalg.solve(gram, A.T @ y)
    return transcoder_of(
        W_enc=W_enc, b_enc=b_enc, W_dec=W[:-1], b_dec=W[-1], metadata={"source": "test", **metadata}, where=Path("test")
    )
