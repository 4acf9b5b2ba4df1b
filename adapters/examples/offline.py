"""The model and the text of these examples: put your own in their place."""

from typing import Any

from faithfulness_plugin.benchmarks.language_model.config import TrainConfig
from faithfulness_plugin.benchmarks.language_model.model import load_model
from faithfulness_plugin.benchmarks.language_model.text import load_prompts


def model_and_prompts(context_size: int) -> tuple[Any, Any]:
    """A TransformerBridge of SmolLM2-135M-Instruct with dequantised 4-bit weights, and prompts cut from speeches."""
    config = TrainConfig(context_size=context_size, tokens=50_000)
    model = load_model(config.model, "cpu")
    return model, load_prompts(config, model.tokenizer)
