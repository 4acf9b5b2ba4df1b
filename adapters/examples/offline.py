"""The model and the text of these examples: put your own in their place."""

from typing import Any

from faithfulness_plugin.adapters import smollm2
from faithfulness_plugin.language_model.config import TrainConfig
from faithfulness_plugin.language_model.model import load_model
from faithfulness_plugin.language_model.text import load_prompts, placed_prompts


def model_and_prompts(context_size: int) -> tuple[Any, Any]:
    """Load a TransformerBridge of SmolLM2-135M-Instruct with dequantised 4-bit weights, and prompts cut from speeches.

    Args:
        context_size: tokens a prompt.

    Returns:
        The model and the prompts.
    """
    config = TrainConfig(context_size=context_size, tokens=50_000)
    model = load_model(config.model, "cpu")
    return model, load_prompts(config, model.tokenizer)


def hugging_face_model_and_prompts(context_size: int, n_prompts: int) -> tuple[Any, Any, list[list[int]]]:
    """Load the model as transformers has it, its tokenizer, and prompts as lists of token ids.

    Args:
        context_size: tokens a prompt.
        n_prompts: how many prompts.

    Returns:
        The model, the tokenizer and the prompts.
    """
    config = TrainConfig(context_size=context_size)
    model, tokenizer = smollm2.load()
    prompts, _ = placed_prompts(config.text, tokenizer, context_size, config.seed, n_prompts)
    return model, tokenizer, prompts.tolist()


def accepting_truncation(tokenizer: Any) -> Any:
    """Let a tokenizer's `pad` ignore `truncation`: NNsightActivationBuffer passes it on, and no `pad` of transformers
    takes it.

    Args:
        tokenizer: is changed.

    Returns:
        The tokenizer.
    """
    pad = tokenizer.pad
    tokenizer.pad = lambda *args, truncation=None, **kwargs: pad(*args, **kwargs)
    return tokenizer
