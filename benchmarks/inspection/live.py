"""The inspection pages that the site shows: of the toy, and of a language model's layer, without and with matching."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from faithfulness_plugin.benchmarks.inspection.toy import ARMS, Arm, trained_toys
from faithfulness_plugin.inspection.inspection import Inspection, inspect_transcoder
from faithfulness_plugin.inspection.layer_vocabulary import layer_vocabulary
from faithfulness_plugin.inspection.page import write_page
from faithfulness_plugin.inspection.subjects import toy_subject
from faithfulness_plugin.inspection.text import text_sample
from faithfulness_plugin.inspection.token_text import TokenText
from faithfulness_plugin.layers.any_model import hooks_of, mlp_layer
from faithfulness_plugin.layers.hooked_layer import HookedLayer

TOYS: dict[str, Arm] = {"no term": "repetition", "Jacobian matched": "repetition + Jacobian"}
SEED, STEPS = 1000, 4000
BLOCK, PROMPTS, LENGTH = 10, 512, 64
ARMS_OF_LAYER: dict[str, dict[str, Any]] = {
    "no term": {},
    "skip, Jacobian matched": {"skip": True, "jacobian_coefficient": 0.3},
}


def toys() -> list[Inspection]:
    """Inspect |x| with a repeated point.

    Returns:
        A transcoder without a term, and one with the Jacobian matched.
    """
    subject = toy_subject(16, density=0.1, repeat_frac=0.05, n_ones=3, n_rows=8192, seed=SEED)
    subject = replace(subject, name="y = |x|")
    trained = {name: trained_toys(ARMS[arm], [SEED], STEPS).transcoder(0) for name, arm in TOYS.items()}
    return [subject.inspect(transcoder, name=name) for name, transcoder in trained.items()]


def toy_page(path: Path) -> None:
    """Write the page of the toy.

    Args:
        path: the HTML file.
    """
    write_page(toys(), path, title="y = |x|, one input repeated")


def layer_page(path: Path) -> None:
    """Write the page of an MLP of SmolLM2-135M, with two transcoders that are trained for it here, in two minutes.

    Args:
        path: the HTML file.

    Raises:
        UsageError: the examples' model or text is not installed.
    """
    from faithfulness_plugin.adapters.examples.offline import hugging_face_model_and_prompts

    model, tokenizer, prompts = hugging_face_model_and_prompts(LENGTH, PROMPTS)
    hooks, layer = hooks_of(model), mlp_layer(model, BLOCK)
    special = torch.tensor(tokenizer.all_special_ids)
    tokens = torch.tensor(prompts)
    rows = text_sample(hooks, layer, tokens, exclude=special).x
    sample = text_sample(hooks, layer, tokens[: PROMPTS // 4], exclude=special)
    about: dict[str, Any] = {"layer_name": f"block {BLOCK}", "vocabulary": layer_vocabulary(hooks, layer)}
    found = [
        inspect_transcoder(_trained(layer, rows, more), layer, sample, name=name, **about)
        for name, more in ARMS_OF_LAYER.items()
    ]
    write_page(found, path, token_text=TokenText(tokenizer), title=f"SmolLM2-135M, MLP of block {BLOCK}")


def _trained(layer: HookedLayer, rows: Float[Tensor, "rows d_in"], more: dict[str, Any]) -> Any:
    from faithfulness_plugin.training.train import train_transcoder
    from faithfulness_plugin.transcoders.topk import TopKTrainingTranscoder, TopKTrainingTranscoderConfig

    torch.manual_seed(0)
    transcoder = TopKTrainingTranscoder(TopKTrainingTranscoderConfig(d_in=576, d_sae=1152, k=32, **more))
    return train_transcoder(transcoder, layer, rows, batch_size=512, n_steps=400, progress=False).transcoder


PAGES: dict[str, Callable[[Path], None]] = {"toy": toy_page, "layer": layer_page}
"""What writes each page."""
