"""The language model of a run, from the hub, from a folder, or the one that needs neither."""

from typing import Any

import torch

from faithfulness_plugin.language_model.config import OFFLINE_MODEL, ModelSource, TrainConfigError
from faithfulness_plugin.language_model.hub_model import not_loaded, only_cached
from faithfulness_plugin.messages import one_line

N_TOKENS = 16
"""A prompt on which a bridge is compared with the model that it wraps."""
AGREES, AGREES_IN_HALF = 1e-3, 0.1
"""How much the logits may differ, relative to their norm."""


def load_model(source: ModelSource, device: str, *, plain: bool = False) -> Any:
    """Load a TransformerBridge in eval mode, frozen, with its tokenizer.

    Args:
        source: which model.
        device: where it runs.
        plain: a plain Hugging Face model will do where TransformerLens has no bridge for its architecture, or one whose
            logits are not the model's (for Cohere's models it applies rotary positions in another order).

    Returns:
        The bridge, or the plain model with a `tokenizer`.

    Raises:
        TrainConfigError: the model cannot be loaded: no such model, no network, an interrupted download, no CUDA.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise TrainConfigError("device: cuda: torch sees no CUDA device here; use device: cpu")
    model, tokenizer = _hugging_face(source, plain)
    bridge, problem = _bridge(source.name, model.eval().to(device), tokenizer)
    if bridge is None and not plain:
        raise TrainConfigError(f"model {source.name}: {problem}, and training needs one: use another model")
    if bridge is None:
        model = None  # a bridge that was tried has changed it; two do not fit in memory
        bridge, tokenizer = _hugging_face(source, plain)
        bridge = bridge.to(device)
        bridge.tokenizer = tokenizer
    return bridge.eval().requires_grad_(False)


def _bridge(name: str, model: Any, tokenizer: Any) -> tuple[Any, str]:
    """Return the bridge of a model, or None and what is wrong with it."""
    from transformer_lens.model_bridge import TransformerBridge

    kind, device = type(model).__name__, model.device
    tokens = torch.arange(N_TOKENS, device=device)[None] % model.config.get_text_config().vocab_size
    with torch.no_grad():
        right = model(tokens).logits.double()
    agrees = AGREES if model.dtype in (torch.float32, torch.float64) else AGREES_IN_HALF
    try:
        bridge = TransformerBridge.boot_transformers(name, hf_model=model, tokenizer=tokenizer, device=str(device))
    except Exception as error:  # whatever TransformerLens makes of an architecture that it does not know
        return None, f"TransformerLens has no bridge for a {kind} ({one_line(error)})"
    with torch.no_grad():
        error = (bridge.eval()(tokens).double() - right).norm() / right.norm()
    if error < agrees:
        return bridge, ""
    return None, (
        f"TransformerLens's bridge of a {kind} computes something else than the model (their logits differ by "
        f"{error:.1%})"
    )


def model_title(source: ModelSource) -> str:
    """Name the model in results: the offline default is 4-bit and never called by the original's name.

    Args:
        source: which model.

    Returns:
        The name.
    """
    if source.name != OFFLINE_MODEL:
        return source.name
    from faithfulness_plugin.adapters import smollm2

    return smollm2.NAME


def _hugging_face(source: ModelSource, plain: bool) -> tuple[Any, Any]:
    """Load the model and its tokenizer, from the hub, from a folder, or from the package of the offline one."""
    name, dtype = source.name, getattr(torch, source.dtype)
    if name == OFFLINE_MODEL:
        from faithfulness_plugin.adapters import smollm2

        try:
            return smollm2.load(dtype=dtype)
        except (ValueError, ImportError) as error:
            raise TrainConfigError(str(error)) from error
    cached = only_cached(name, plain=plain)
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        model = AutoModelForCausalLM.from_pretrained(
            name, dtype=dtype, attn_implementation="eager", local_files_only=cached
        )
        return model, AutoTokenizer.from_pretrained(name, local_files_only=cached)
    except Exception as error:  # whatever hub, network and files make of it
        raise TrainConfigError(not_loaded(name, one_line(error), plain=plain)) from error
