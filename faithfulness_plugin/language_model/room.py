"""The memory and the disk that a run of many transcoders takes, said and checked before it begins."""

from pathlib import Path

import torch

from faithfulness_plugin.language_model.result import TrainResult
from faithfulness_plugin.results.open_or_resume import require_writable

COPIES = 4
"""What training holds of each weight: itself, its gradient, and Adam's two moments."""


def n_weights(result: TrainResult, d_model: int) -> int:
    """Count the weights of all transcoders of a run.

    Args:
        result: says which there are.
        d_model: the width of their inputs and outputs.

    Returns:
        Weights.
    """
    config, n = result.config, 0
    for of in result.planned:
        cfg = config.transcoder_config(d_model, d_model, of.coefficient, of.seed, of.arm)
        n += 2 * d_model * cfg.d_sae + cfg.d_sae + d_model + d_model**2 * cfg.skip
    return n


def buffer_bytes(result: TrainResult, d_model: int) -> int:
    """Compute the size of the buffer, in which the rows of all blocks stand side by side.

    Args:
        result: says how many blocks and rows.
        d_model: the width of a row of one block.

    Returns:
        Bytes.
    """
    config = result.config
    dtype = getattr(torch, config.buffer_dtype or config.model.dtype)
    return config.buffer_rows * len(result.blocks) * d_model * dtype.itemsize


def require_room(result: TrainResult, d_model: int, out: Path, *, resumes: bool = False) -> str:
    """Compute what a run from the model holds, and refuse checkpoints that the disk has no room for.

    Args:
        result: says which transcoders.
        d_model: the width of their inputs and outputs.
        out: the folder of the run.
        resumes: whether the run's files are there already, in part; then nothing is refused.

    Returns:
        A line that says how much memory the transcoders, their optimizers and the buffer take.

    Raises:
        ResultError: too little room.
    """
    weights, buffer, config = 4 * n_weights(result, d_model), buffer_bytes(result, d_model), result.config
    # every checkpoint keeps the weights; the newest, and the one that is being written, the optimizers and the buffer
    needed = weights * (config.checkpoints + 2) + 2 * (2 * weights + buffer)
    if not resumes:
        require_writable(out, "--out", float(needed))
    return (
        f"{len(result.planned)} transcoder{'s' * (len(result.planned) > 1)} of {len(result.blocks)} "
        f"block{'s' * (len(result.blocks) > 1)} take {COPIES * weights / 1e9:.2f} GB of "
        f"memory with their optimizers, and the rows in the buffer {buffer / 1e9:.2f} GB"
    )
