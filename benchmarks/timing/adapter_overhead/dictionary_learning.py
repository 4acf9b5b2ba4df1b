"""What dictionary_learning's `trainSAE` does in a step, timed."""

# pyright: reportMissingImports=false

import time
from collections.abc import Callable, Iterator
from itertools import cycle, repeat
from typing import Any

import torch
from torch import Tensor, nn

from faithfulness_plugin.benchmarks.timing.adapter_overhead.schema import BLOCK, COEFFICIENT, TOKENS, OverheadConfig
from faithfulness_plugin.layers.derivatives import Layer


def step(c: OverheadConfig) -> Callable[[dict[str, Any] | None], float]:
    """On pairs at hand."""
    torch.manual_seed(0)
    layer = _SwiGlu(c.d, c.d_mlp).requires_grad_(False)
    x = torch.randn(c.rows, c.d)
    pairs = torch.stack([x, layer(x)], dim=1)
    return _updates(c, layer, {"out": lambda: repeat(pairs[:, 1]), "in_and_out": lambda: repeat(pairs)})


def loop(c: OverheadConfig) -> Callable[[dict[str, Any] | None], float]:
    """On what the library's own buffer yields of the examples' model and text: each batch runs as many tokens."""
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

    layer = model.model.layers[BLOCK].mlp
    return _updates(c, layer, {"out": lambda: buffer("out"), "in_and_out": lambda: buffer("in_and_out")})


def _updates(
    c: OverheadConfig, layer: Layer, batches: dict[str, Callable[[], Iterator[Tensor]]]
) -> Callable[[dict[str, Any] | None], float]:
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

    def run(options: dict[str, Any] | None) -> float:
        kind = TopKTrainer if options is None else matched_trainer(TopKTrainer, layer, COEFFICIENT, **options)
        trainer, data = kind(**settings), batches["out" if options is None else "in_and_out"]()
        trainer.update(0, next(data))  # finds medians, fills the buffer
        begun = time.perf_counter()
        for number in range(1, c.n_steps + 1):
            trainer.update(number, next(data))
        return (time.perf_counter() - begun) / c.n_steps

    return run


class _SwiGlu(nn.Module):
    def __init__(self, d: int, d_mlp: int) -> None:
        super().__init__()
        self.gate, self.up, self.down = nn.Linear(d, d_mlp), nn.Linear(d, d_mlp), nn.Linear(d_mlp, d)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(nn.functional.silu(self.gate(x)) * self.up(x))
