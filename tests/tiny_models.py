"""Tiny language models of every kind, made offline with random weights, in float64."""

import warnings
from collections.abc import Callable, Iterable
from typing import Any

import torch
import transformers as hf
from torch import Tensor, nn
from transformer_lens.config import TransformerBridgeConfig
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module

from faithfulness_plugin.layers.any_model import hooks_of

D_MODEL, N_VOCAB = 16, 50
SIZES: dict[str, Any] = {
    "hidden_size": D_MODEL,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "vocab_size": N_VOCAB,
    "max_position_embeddings": 32,
}
GROUPED: dict[str, Any] = {**SIZES, "num_key_value_heads": 2}
GPT: dict[str, Any] = {"n_embd": D_MODEL, "n_layer": 2, "n_head": 2, "vocab_size": N_VOCAB, "n_positions": 32}
EXPERTS: dict[str, Any] = {"num_local_experts": 4, "experts_implementation": "eager"}  # its kernels want float32

HUGGING_FACE: dict[str, Callable[[], Any]] = {
    "llama": lambda: hf.LlamaForCausalLM(hf.LlamaConfig(**GROUPED)),
    "gpt2": lambda: hf.GPT2LMHeadModel(hf.GPT2Config(**GPT)),
    "neox": lambda: hf.GPTNeoXForCausalLM(hf.GPTNeoXConfig(**SIZES)),
    "gemma2": lambda: hf.Gemma2ForCausalLM(hf.Gemma2Config(head_dim=8, **GROUPED)),
    "olmo2": lambda: hf.Olmo2ForCausalLM(hf.Olmo2Config(pad_token_id=None, **GROUPED)),
    "gptj": lambda: hf.GPTJForCausalLM(hf.GPTJConfig(rotary_dim=4, **GPT)),
    "phi": lambda: hf.PhiForCausalLM(hf.PhiConfig(**GROUPED)),
    "mixtral": lambda: hf.MixtralForCausalLM(hf.MixtralConfig(**EXPERTS, **GROUPED)),
}
NO_MLP_WEIGHTS = ("mixtral",)
"""Their MLP is more than one hidden layer."""


def tokens() -> Tensor:
    return torch.randint(N_VOCAB, (2, 6), generator=torch.Generator().manual_seed(3))


def carried(model: Any, names: Iterable[str], prompts: Tensor | None = None) -> dict[str, Tensor]:
    """Return what a model of any kind carries under these names, in their order."""
    seen: dict[str, Tensor] = {}
    with torch.no_grad():
        at = {name: lambda a, name=name: seen.update({name: a.clone()}) for name in names}
        hooks_of(model).run(tokens() if prompts is None else prompts, at)
    return {name: seen[name] for name in names}


def set_large(model: nn.Module) -> None:
    """Weights at which no part of a model is negligible; norms and biases included."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=parameter.shape[-1] ** -0.5 if parameter.ndim > 1 else 0.5)


def hugging_face(name: str) -> Any:
    model = HUGGING_FACE[name]().double().eval()
    set_large(model)
    return model


def hooked(norm: str | None = "LN", *, sae: bool = False, **options: Any) -> Any:
    """A HookedTransformer, or with `sae` a HookedSAETransformer."""
    fields: dict[str, Any] = {
        "n_layers": 2,
        "d_model": D_MODEL,
        "n_ctx": 32,
        "d_head": 8,
        "d_mlp": 32,
        "act_fn": "silu",
        "d_vocab": N_VOCAB,
        "dtype": torch.float64,
        **options,
    }
    from sae_lens import HookedSAETransformer  # neither is there beside transformer-lens 4
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    config = HookedTransformerConfig(normalization_type=norm, **fields)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "HookedTransformer is deprecated", DeprecationWarning)
        model = (HookedSAETransformer if sae else HookedTransformer)(config).eval()
    set_large(model)
    return model


def bridge(name: str) -> Any:
    """A TransformerBridge around a Hugging Face model."""
    model = hugging_face(name)
    return build_bridge_from_module(model, type(model).__name__, hf_config=model.config)


def native_bridge(norm: str | None = "LN", **options: Any) -> Any:
    """A TransformerBridge without Hugging Face."""
    fields: dict[str, Any] = {"n_layers": 2, "d_model": D_MODEL, "n_ctx": 32, "d_head": 8, "n_heads": 2, "d_mlp": 32}
    fields |= {"d_vocab": N_VOCAB, "act_fn": "silu", "normalization_type": norm, **options}
    model = TransformerBridge.boot_native(TransformerBridgeConfig(**fields), dtype=torch.float64)
    set_large(model)
    return model


def sae_bridge(name: str = "llama") -> Any:
    """A SAETransformerBridge, made of a bridge as its own `boot_transformers` makes it."""
    from sae_lens.analysis.sae_transformer_bridge import SAETransformerBridge

    model = bridge(name)
    model.__class__ = SAETransformerBridge
    model._acts_to_saes, model._transcoder_output_hooks = {}, {}
    return model
