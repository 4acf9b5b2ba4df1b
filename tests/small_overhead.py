"""A size at which the overhead benchmark takes a second, and a model of it in place of the examples'."""

from typing import Any

import tiny_hub
import torch
import transformers as hf

from faithfulness_plugin.adapters.examples import offline
from faithfulness_plugin.benchmarks.timing.adapter import BLOCK, TOKENS, AdapterOverhead, OverheadConfig
from faithfulness_plugin.results.experiment import complete

SMALL: dict[str, Any] = {"d": 16, "d_mlp": 32, "d_sae": 64, "k": 4, "rows": 2 * TOKENS, "n_steps": 2, "rounds": 2}
N_TOKENS = 50


def tokenizer() -> Any:
    """With a token to pad with."""
    words = tiny_hub.tokenizer()
    words.pad_token = words.eos_token
    return words


def prompts(n: int, length: int = TOKENS) -> list[list[int]]:
    return torch.randint(3, N_TOKENS, (n, length)).tolist()


def model_and_prompts(_: int, n_prompts: int) -> tuple[Any, Any, list[list[int]]]:
    size: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": BLOCK + 1}
    config = hf.LlamaConfig(num_attention_heads=2, vocab_size=N_TOKENS, **size)
    return hf.LlamaForCausalLM(config).eval().requires_grad_(False), tokenizer(), prompts(n_prompts)


def check_overhead(library: Any, tmp_path: Any, monkeypatch: Any) -> None:
    """Both measurements of all arms, and a second start that finds them."""
    monkeypatch.setattr(offline, "hugging_face_model_and_prompts", model_and_prompts)
    config = OverheadConfig(library=library, threads=1, **SMALL)
    result = complete(AdapterOverhead(), config, tmp_path)
    for timings in (result.step, result.loop):
        assert timings is not None
        assert len(timings.matched) == 2
        assert all(len(seconds) == 2 and min(seconds) > 0 for seconds in (timings.alone, *timings.matched.values()))
    assert complete(AdapterOverhead(), config, tmp_path) == result
