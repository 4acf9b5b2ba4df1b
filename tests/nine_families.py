"""Tiny random models of nine families, and of two more, as plain Hugging Face models and on a TransformerBridge."""

import copy
from collections.abc import Callable
from typing import Any

import tiny_models
import torch
import transformers as hf
from tiny_models import GPT, GROUPED, N_VOCAB, SIZES
from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module

OPT: dict[str, Any] = {"hidden_size": 16, "word_embed_proj_dim": 16, "ffn_dim": 32, "num_hidden_layers": 2}
OPT |= {"num_attention_heads": 2, "vocab_size": N_VOCAB, "max_position_embeddings": 32}

NINE: dict[str, Callable[[], Any]] = {
    "gemma2": tiny_models.HUGGING_FACE["gemma2"],
    "gemma3": lambda: hf.Gemma3ForCausalLM(hf.Gemma3TextConfig(head_dim=8, **GROUPED)),
    "llama": tiny_models.HUGGING_FACE["llama"],
    "qwen3": lambda: hf.Qwen3ForCausalLM(hf.Qwen3Config(head_dim=8, **GROUPED)),
    "gpt2": lambda: hf.GPT2LMHeadModel(hf.GPT2Config(**GPT)),
    "neox": lambda: hf.GPTNeoXForCausalLM(hf.GPTNeoXConfig(**SIZES)),
    "opt": lambda: hf.OPTForCausalLM(hf.OPTConfig(**OPT)),
    "phi3": lambda: hf.Phi3ForCausalLM(hf.Phi3Config(pad_token_id=0, **GROUPED)),
    "granite": lambda: hf.GraniteForCausalLM(hf.GraniteConfig(residual_multiplier=0.25, **GROUPED)),
}
FAMILIES: dict[str, Callable[[], Any]] = {**NINE, "olmo2": tiny_models.HUGGING_FACE["olmo2"]}


def plain(family: str) -> Any:
    """A model of a family, in float64; the same whenever it is made."""
    with torch.random.fork_rng():
        torch.manual_seed(7)
        model = FAMILIES[family]().double().eval().requires_grad_(False)
        tiny_models.set_large(model)
    return model


def bridge(family: str) -> Any:
    """A TransformerBridge around the same model."""
    model = copy.deepcopy(plain(family))
    return build_bridge_from_module(model, type(model).__name__, hf_config=model.config)
