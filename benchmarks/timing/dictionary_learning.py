"""What dictionary_learning's `trainSAE` does in a step, timed."""

# pyright: reportMissingImports=false

from collections.abc import Callable, Iterator
from itertools import cycle, repeat
from typing import Any

import torch
from torch import Tensor

from faithfulness_plugin.benchmarks.timing.adapter import BLOCK, COEFFICIENT, TOKENS, OverheadConfig, Train
from faithfulness_plugin.benchmarks.timing.steps import swiglu
from faithfulness_plugin.layers.derivatives import Layer
from faithfulness_plugin.results.timing import seconds

Batches = Callable[[str], Iterator[Tensor]]
"""Endless batches of the layer's outputs ("out"), or of pairs of inputs and outputs ("in_and_out")."""


def step(c: OverheadConfig) -> Train:
    """Prepare training on pairs that are made beforehand.

    Args:
        c: sizes and numbers of steps.

    Returns:
        A function that trains and returns seconds a step.
    """
    torch.manual_seed(0)
    layer = swiglu(c.d, c.d_mlp).requires_grad_(False)
    x = torch.randn(c.rows, c.d)
    pairs = torch.stack([x, layer(x)], dim=1)
    return _train(c, layer, lambda io: repeat(pairs[:, 1] if io == "out" else pairs))


def loop(c: OverheadConfig) -> Train:
    """Prepare training on what the library's own buffer yields of the examples' model and text: each batch runs as many
    tokens.

    Args:
        c: sizes and numbers of steps.

    Returns:
        A function that trains and returns seconds a step.
    """
    from dictionary_learning.buffer import NNsightActivationBuffer
    from nnsight import LanguageModel

    from faithfulness_plugin.adapters.examples.offline import accepting_truncation, hugging_face_model_and_prompts

    prompts_a_step = c.rows // TOKENS
    model, tokenizer, prompts = hugging_face_model_and_prompts(TOKENS, 8 * prompts_a_step)
    traced = LanguageModel(model, tokenizer=accepting_truncation(tokenizer))

    def buffer(io: str) -> Any:
        return NNsightActivationBuffer(
            cycle(prompts),
            traced,
            traced.model.layers[BLOCK].mlp,
            d_submodule=c.d,
            io=io,
            n_ctxs=2 * prompts_a_step,
            ctx_len=TOKENS,
            refresh_batch_size=prompts_a_step,
            out_batch_size=c.rows,
        )

    return _train(c, model.model.layers[BLOCK].mlp, buffer)


def _train(c: OverheadConfig, layer: Layer, batches: Batches) -> Train:
    from dictionary_learning.trainers.top_k import TopKTrainer

    from faithfulness_plugin.adapters.dictionary_learning import matched_trainer

    settings: dict[str, Any] = {
        "steps": c.n_steps + 1,
        "activation_dim": c.d,
        "dict_size": c.d_sae,
        "k": c.k,
        "warmup_steps": 0,
        "layer": 0,
        "lm_name": "",
        "device": "cpu",
        "seed": 0,
    }

    def train(options: dict[str, Any] | None) -> float:
        matched = options is not None
        trainer_class = matched_trainer(TopKTrainer, layer, COEFFICIENT, **options) if matched else TopKTrainer
        trainer, data = trainer_class(**settings), batches("in_and_out" if matched else "out")
        trainer.update(0, next(data))  # finds medians, fills the buffer

        def updates() -> None:
            for number in range(1, c.n_steps + 1):
                trainer.update(number, next(data))

        return seconds(updates) / c.n_steps

    return train
