"""What features raise, lower and read in tokens, held against the models' own unembeddings and embeddings."""

from types import SimpleNamespace
from typing import Any

import nine_families
import numpy as np
import pytest
import tiny_models
import torch
import transformers as hf
from torch import Tensor

from faithfulness_plugin.inspection import feature_tokens as module
from faithfulness_plugin.inspection.feature_tokens import feature_tokens
from faithfulness_plugin.inspection.layer_vocabulary import layer_vocabulary
from faithfulness_plugin.layers.any_model import hooks_of
from faithfulness_plugin.layers.hooked_layer import HookedLayer

pytestmark = pytest.mark.usefixtures("as_installed")
READ, WRITTEN, LAST = "blocks.1.mlp.hook_in", "blocks.1.hook_mlp_out", "blocks.1.hook_resid_post"
HOOKED = {
    "LN": lambda: tiny_models.hooked("LN"),
    "LNPre": lambda: tiny_models.hooked("LNPre"),
    "RMS": lambda: tiny_models.hooked("RMS"),
    "RMSPre": lambda: tiny_models.hooked("RMSPre"),
    "none": lambda: tiny_models.hooked(None),
    "parallel": lambda: tiny_models.hooked("LN", parallel_attn_mlp=True),
    "saes": lambda: tiny_models.hooked("LN", sae=True),
}


def between(read: str = READ, written: str = WRITTEN) -> HookedLayer:
    return HookedLayer(read, written, lambda x: x)


def random_features(d: int = tiny_models.D_MODEL, n: int = 5) -> Any:
    torch.manual_seed(1)
    return SimpleNamespace(W_enc=torch.randn(d, n).double(), W_dec=torch.randn(n, d).double())


def effects_by_hand(hooks: Any, w: Tensor) -> Tensor:
    """Move the last residual row by w in the model itself, at a row of which w leaves the size as it is, so that the
    norm divides by a constant; scaled to a row of size 1."""
    torch.manual_seed(2)
    r = torch.randn_like(w)
    r = r - r.mean()
    along = w - w.mean()
    r = 3 * (r - along * (r @ along) / (along @ along))
    tokens, step = torch.zeros(1, 3, dtype=torch.long), 1e-2  # some norms compute in single precision

    def logits(at: Tensor) -> Tensor:
        with torch.no_grad():
            return hooks.run(tokens, {LAST: lambda a: at.expand(a.shape).clone()})[0, -1].double()

    moved = (logits(r + step * w) - logits(r - step * w)) / (2 * step)
    size = r.square().mean().sqrt() if hooks.vocabulary().norm.divides else 1.0
    return (moved - moved.mean()) * size


def reads_by_hand(hooks: Any, r: Tensor, read: str) -> Tensor:
    """Put the embedding of each token, and nothing else, into the stream before the layer; what the feature reads."""
    E, seen = hooks.vocabulary().embedding, []
    tokens = torch.arange(len(E))[:, None].expand(-1, 2)

    def put_in(a: Tensor) -> Tensor:
        return E[:, None].expand(a.shape).to(a.dtype).clone()

    with torch.no_grad():
        hooks.visit(tokens, {"blocks.1.hook_mlp_in": put_in, read: lambda a: seen.append(a[:, 0].double())})
    found = seen[0] @ r
    return found - found.mean()


def check(model: Any, read: str = READ, written: str = WRITTEN, factor: float = 1.0) -> None:
    hooks, features = hooks_of(model), random_features()
    vocabulary = layer_vocabulary(hooks, between(read, written))
    assert vocabulary is not None
    assert vocabulary.written == pytest.approx(factor, rel=1e-2)
    found = feature_tokens(features, vocabulary, most=7)
    assert found.raised is not None
    assert found.lowered is not None
    assert found.read is not None
    for i in range(5):
        for of, expected in (
            (found.raised, factor * effects_by_hand(hooks, features.W_dec[i])),
            (found.lowered, factor * effects_by_hand(hooks, features.W_dec[i])),
            (found.read, reads_by_hand(hooks, features.W_enc[:, i], read)),
        ):
            atol = 2e-3 * float(expected.abs().max())
            values = expected[torch.from_numpy(of.tokens[i])]
            np.testing.assert_allclose(of.values[i], values, rtol=2e-3, atol=atol)
            best = expected.sort(descending=of is not found.lowered).values[:7]
            np.testing.assert_allclose(of.values[i], best, rtol=2e-3, atol=atol)


@pytest.mark.parametrize("family", [*nine_families.FAMILIES])
@pytest.mark.parametrize("kind", ["plain", "bridge"])
def test_effects_and_reads_are_those_of_the_model_itself(family, kind):
    model = getattr(nine_families, kind)(family)
    if family == "gemma2":  # a soft cap on logits, which is left out
        config = model.config if kind == "plain" else model.original_model.config
        config.final_logit_softcapping = None
    check(model)


@pytest.mark.parametrize("kind", HOOKED)
def test_of_a_hooked_transformer_too(kind):
    read = "blocks.1.ln2.hook_normalized" if kind not in ("none",) else "blocks.1.hook_resid_mid"
    check(HOOKED[kind](), read)


def test_an_output_that_the_stream_gets_a_multiple_of_and_one_that_it_does_not_get():
    check(nine_families.plain("granite"), READ, "model.layers.1.mlp", factor=0.25)
    features = random_features()
    normed = layer_vocabulary(hooks_of(nine_families.plain("gemma2")), between(READ, "model.layers.1.mlp"))
    assert normed is not None
    assert normed.written is None  # a norm stands behind it
    found = feature_tokens(features, normed)
    assert (found.raised, found.lowered) == (None, None)
    assert found.read is not None
    inside = layer_vocabulary(hooks_of(nine_families.plain("llama")), between("model.layers.1.mlp.act_fn", WRITTEN))
    assert inside is not None
    assert inside.norm_in is None
    assert feature_tokens(features, inside).read is None


def test_an_autoencoder_of_the_residual_stream():
    model = nine_families.plain("llama")
    found = layer_vocabulary(hooks_of(model), between(LAST, LAST))
    assert found is not None
    assert found.written == 1
    assert found.norm_in is not None
    assert not found.norm_in.divides


@pytest.mark.parametrize("model", ["bert", "no head"])
def test_a_model_that_does_not_predict_the_next_token_has_no_words(model):
    sizes = {**tiny_models.SIZES, "pad_token_id": 0}
    made = (
        hf.BertForMaskedLM(hf.BertConfig(**sizes))
        if model == "bert"
        else hf.LlamaModel(hf.LlamaConfig(**tiny_models.GROUPED))
    )
    assert hooks_of(made.eval()).vocabulary() is None
    assert layer_vocabulary(hooks_of(made.eval()), between()) is None


def test_parts_of_the_vocabulary_give_what_all_of_it_gives(monkeypatch):
    hooks = hooks_of(tiny_models.hooked("LN"))
    vocabulary, features = layer_vocabulary(hooks, between("blocks.1.ln2.hook_normalized")), random_features()
    assert vocabulary is not None
    whole = feature_tokens(features, vocabulary)
    monkeypatch.setattr(module, "TOKENS_AT_A_TIME", 3)
    monkeypatch.setattr(module, "FEATURES_AT_A_TIME", 2)
    parts = feature_tokens(features, vocabulary)
    for name in ("raised", "lowered", "read"):
        np.testing.assert_array_equal(getattr(whole, name).tokens, getattr(parts, name).tokens)
        np.testing.assert_allclose(getattr(whole, name).values, getattr(parts, name).values, atol=1e-5)
