"""How many tokens models take, as their configurations say it."""

import pytest
import tiny_models
import torch
import transformers as hf

from faithfulness_plugin.adapters.huggingface.hooks import HuggingFaceHooks
from faithfulness_plugin.adapters.huggingface.positions import n_positions
from faithfulness_plugin.adapters.transformer_lens.hooks import TransformerLensHooks

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64, "rope_theta": 1e4}
CONFIGS = {
    "gpt2": (hf.GPT2Config(n_positions=64), 64),
    "gptj": (hf.GPTJConfig(n_positions=48), 48),
    "llama": (hf.LlamaConfig(max_position_embeddings=77), 77),
    "opt": (hf.OPTConfig(max_position_embeddings=33), 33),
    "a stretched context": (hf.Qwen2Config(max_position_embeddings=64, rope_parameters=dict(YARN)), 256),
    "one whose length is the stretched one": (
        hf.Qwen2Config(max_position_embeddings=512, rope_parameters=dict(YARN)),
        512,
    ),
    "a text model inside another": (hf.Gemma3Config(text_config={"max_position_embeddings": 99}), 99),
    "alibi": (hf.BloomConfig(), None),
    "alibi by choice": (hf.FalconConfig(alibi=True), None),
    "state space": (hf.MambaConfig(), None),
    "relative positions": (hf.T5Config(), None),
    "none": (None, None),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_the_longest_prompt_is_what_the_configuration_says(name):
    config, expected = CONFIGS[name]
    assert n_positions(config) == expected


def test_hooks_know_it_for_every_kind_of_model():
    assert HuggingFaceHooks(tiny_models.hugging_face("gpt2")).n_positions == 32
    assert TransformerLensHooks(tiny_models.bridge("llama")).n_positions == 32
    assert TransformerLensHooks(tiny_models.hooked()).n_positions == 32


def test_prompts_at_the_limit_are_taken_and_beyond_it_refused():
    hooks = HuggingFaceHooks(tiny_models.hugging_face("gpt2"))
    hooks.require_tokens(torch.zeros(2, 32, dtype=torch.long))
    with pytest.raises(ValueError, match="prompts of 33 tokens do not fit the model, which has 32 positions"):
        hooks.require_tokens(torch.zeros(2, 33, dtype=torch.long))
    for outside in (-1, tiny_models.N_VOCAB):
        with pytest.raises(ValueError, match=f"token id {outside} is outside the model's vocabulary"):
            hooks.require_tokens(torch.tensor([[0, outside]]))
