"""What `faithfulness train` reads from a hub, made in a folder: a tiny random Llama with its tokenizer, and a text."""

import random
import string
from pathlib import Path
from typing import Any

import torch
import transformers as hf
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit

D_MODEL, N_BLOCKS = 16, 2
BOS, EOS, UNKNOWN = "<bos>", "<eos>", "<unk>"
WORDS = [a + b for a in string.ascii_lowercase[:8] for b in "aeiouyz"]  # a token each
N_TOKENS = len(WORDS) + 3
SMALL: dict[str, Any] = {
    "blocks": [1],
    "architecture": "topk",
    "transcoder": {"d_sae": 24, "k": 4},
    "tokens": 640,
    "batch_size": 64,
    "context_size": 16,
    "prompts_per_pass": 4,
    "buffer_prompts": 16,
    "held_out_prompts": 4,
    "checkpoints": 0,
    "coefficients": [0.0, 0.5],
}
"""Settings under which a run takes about a second."""


def tokenizer() -> Any:
    model = WordLevel({word: i for i, word in enumerate([BOS, EOS, UNKNOWN, *WORDS])}, unk_token=UNKNOWN)
    words = Tokenizer(model)
    words.pre_tokenizer = WhitespaceSplit()  # pyright: ignore[reportAttributeAccessIssue]
    return hf.PreTrainedTokenizerFast(tokenizer_object=words, bos_token=BOS, eos_token=EOS, unk_token=UNKNOWN)


def write_model(folder: Path) -> Path:
    config = hf.LlamaConfig(
        hidden_size=D_MODEL,
        intermediate_size=32,
        num_hidden_layers=N_BLOCKS,
        num_attention_heads=2,
        num_key_value_heads=2,
        vocab_size=N_TOKENS,
        max_position_embeddings=64,
        bos_token_id=0,
        eos_token_id=1,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = hf.LlamaForCausalLM(config)
        with torch.no_grad():  # weights at which no part of the model is negligible
            for parameter in model.parameters():
                parameter.normal_(std=parameter.shape[-1] ** -0.5 if parameter.ndim > 1 else 0.5)
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def document(n_words: int, seed: int = 0) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=n_words))


def write_text(folder: Path, n_files: int = 3, n_words: int = 5000) -> Path:
    folder.mkdir(parents=True)
    for n in range(n_files):
        (folder / f"{n}.txt").write_text(document(n_words, n), encoding="utf-8")
    return folder


def write_hub(folder: Path) -> dict[str, Any]:
    """The settings of a run on a model and a text in that folder."""
    model, text = write_model(folder / "model"), write_text(folder / "text")
    return {**SMALL, "model": {"name": str(model)}, "text": {"files": [str(text)]}}
