"""The language model of a run: from the hub, from a folder, or the one that needs neither."""

from collections.abc import Sequence
from typing import Any

import torch

from faithfulness_plugin.language_model.config import OFFLINE_MODEL, ModelSource, TrainConfigError
from faithfulness_plugin.layers.any_model import mlp_layer
from faithfulness_plugin.layers.hooked_layer import HookedLayer
from faithfulness_plugin.messages import one_line

N_TOKENS = 16
"""A prompt on which a bridge is compared with the model that it wraps."""
AGREES, AGREES_IN_HALF = 1e-3, 0.1
"""How much the logits may differ, relative to their norm."""


def load_model(source: ModelSource, device: str, *, plain: bool = False) -> Any:
    """A TransformerBridge, in eval mode, that no gradient reaches, with its tokenizer.

    Args:
        plain: a plain Hugging Face model will do where TransformerLens has no bridge for its architecture, or one whose
            logits are not the model's (of Cohere's models, whose rotary positions it computes in another order).

    Raises TrainConfigError where it cannot be had: no such model, no network, a download that was interrupted, no CUDA.
    """
    from transformer_lens.model_bridge import TransformerBridge

    if device == "cuda" and not torch.cuda.is_available():
        raise TrainConfigError("device: cuda: torch sees no CUDA device here; use device: cpu")
    dtype = getattr(torch, source.dtype)
    model, tokenizer = _hugging_face(source.name, dtype, plain)
    tokens = torch.arange(N_TOKENS)[None] % model.config.get_text_config().vocab_size
    with torch.no_grad():
        right = model.eval().to(device)(tokens.to(device)).logits.double().cpu()
    try:
        bridge = TransformerBridge.boot_transformers(source.name, hf_model=model, tokenizer=tokenizer, device=device)
    except Exception as error:  # whatever TransformerLens makes of an architecture that it does not know
        if not plain:
            raise TrainConfigError(
                f"model {source.name}: TransformerLens has no bridge for a {type(model).__name__} ({one_line(error)}), "
                "and training needs one: use another model"
            ) from error
        bridge = _as_it_is(model, tokenizer, device)
    else:
        with torch.no_grad():
            error = (bridge.eval()(tokens.to(device)).double().cpu() - right).norm() / right.norm()
        if not error < (AGREES if dtype in (torch.float32, torch.float64) else AGREES_IN_HALF):
            if not plain:
                raise TrainConfigError(
                    f"model {source.name}: TransformerLens's bridge of a {type(model).__name__} computes something "
                    f"else than the model (their logits differ by {error:.1%}), and training needs one: use another "
                    "model"
                )
            model, tokenizer = _hugging_face(source.name, dtype, plain)  # the bridge has changed the first one
            bridge = _as_it_is(model, tokenizer, device)
    return bridge.eval().requires_grad_(False)


def _as_it_is(model: Any, tokenizer: Any, device: str) -> Any:
    model = model.to(device)
    model.tokenizer = tokenizer
    return model


def mlp_layers(model: Any, blocks: Sequence[int]) -> dict[int, HookedLayer]:
    """The MLPs of these blocks, checked. Raises TrainConfigError where there is none."""
    try:
        return {block: mlp_layer(model, block) for block in blocks}
    except ValueError as error:
        raise TrainConfigError(f"blocks: {error}") from error


def model_title(source: ModelSource) -> str:
    """What it is called in results: the offline default is 4-bit and never called by the original's name."""
    if source.name != OFFLINE_MODEL:
        return source.name
    from faithfulness_plugin.adapters import smollm2

    return smollm2.NAME


def _hugging_face(name: str, dtype: torch.dtype, plain: bool) -> tuple[Any, Any]:
    """The model and its tokenizer, from the hub, from a folder, or from the package of the offline one."""
    if name == OFFLINE_MODEL:
        from faithfulness_plugin.adapters import smollm2

        try:
            return smollm2.load(dtype=dtype)
        except (ValueError, ImportError) as error:
            raise TrainConfigError(str(error)) from error
    from transformers import AutoModelForCausalLM, AutoTokenizer

    offline = f"use model: {{name: {OFFLINE_MODEL}}}, which needs none"
    instead = "pass --model, a folder or another of its names" if plain else offline
    try:
        model = AutoModelForCausalLM.from_pretrained(name, dtype=dtype, attn_implementation="eager")
        return model, AutoTokenizer.from_pretrained(name)
    except Exception as error:  # whatever hub, network and files make of it
        raise TrainConfigError(
            f"model {name} could not be loaded ({one_line(error)}): check the name or folder and the network (a "
            f"download that was interrupted goes on when called again), or {instead}"
        ) from error
