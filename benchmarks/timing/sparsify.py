"""sparsify's `Trainer.fit`, timed."""

# pyright: reportMissingImports=false

import contextlib
import io
import os
import tempfile
from typing import Any

import torch

from faithfulness_plugin.benchmarks.timing.adapter import BLOCK, COEFFICIENT, TOKENS, OverheadConfig, Train
from faithfulness_plugin.results.timing import seconds


def step(c: OverheadConfig) -> Train:
    """Prepare training on a random model of one block.

    Args:
        c: sizes and numbers of steps.

    Returns:
        A function that trains and returns seconds a step.
    """
    import transformers as hf

    torch.manual_seed(0)
    heads = c.d // 64 or 1
    config = hf.LlamaConfig(
        hidden_size=c.d,
        intermediate_size=c.d_mlp,
        num_hidden_layers=1,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        vocab_size=1000,
    )
    prompts = torch.randint(0, 1000, (c.n_steps * (c.rows // TOKENS), TOKENS))
    return _train(c, hf.LlamaModel(config).eval(), prompts.tolist(), "layers.0.mlp")


def loop(c: OverheadConfig) -> Train:
    """Prepare training on the examples' model and text.

    Args:
        c: sizes and numbers of steps.

    Returns:
        A function that trains and returns seconds a step.
    """
    from faithfulness_plugin.adapters.examples.offline import hugging_face_model_and_prompts

    model, _, prompts = hugging_face_model_and_prompts(TOKENS, c.n_steps * (c.rows // TOKENS))
    return _train(c, model, prompts, f"layers.{BLOCK}.mlp")


def _train(c: OverheadConfig, model: Any, prompts: list[list[int]], hookpoint: str) -> Train:
    os.environ["SPARSIFY_DISABLE_TRITON"] = "1"  # as it is timed on a CPU, which its Triton kernels do not support
    from datasets import Dataset
    from sparsify import SparseCoderConfig, TrainConfig, Trainer

    from faithfulness_plugin.adapters.sparsify import match_jacobians

    dataset = Dataset.from_dict({"input_ids": prompts}).with_format("torch")

    def train(options: dict[str, Any] | None) -> float:
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
            config = TrainConfig(
                SparseCoderConfig(num_latents=c.d_sae, k=c.k, transcode=True),
                batch_size=c.rows // TOKENS,
                hookpoints=[hookpoint],
                log_to_wandb=False,
                save_dir=folder,
            )
            trainer = Trainer(config, dataset, model)
            trainer.save = lambda: None  # writing is not what is timed
            if options is not None:
                match_jacobians(trainer, COEFFICIENT, **options)
            return seconds(trainer.fit) / c.n_steps

    return train
