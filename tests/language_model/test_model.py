import shutil
from typing import Any

import huggingface_hub.constants
import pytest
import tiny_hub
import tiny_models
import torch
import transformers as hf
from transformer_lens.model_bridge import TransformerBridge
from transformers import AutoModelForCausalLM

from faithfulness_plugin.language_model.config import ModelSource, TrainConfigError
from faithfulness_plugin.language_model.model import load_model, model_title

pytestmark = pytest.mark.usefixtures("as_installed")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_hub.write_model(tmp_path_factory.mktemp("hub") / "model")


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


def refused(source: Any, device: str = "cpu") -> str:
    with pytest.raises(TrainConfigError) as error:
        load_model(ModelSource(name=str(source)), device)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_folder_is_a_frozen_bridge_that_computes_what_its_model_does(folder):
    bridge = load_model(ModelSource(name=str(folder)), "cpu")
    assert isinstance(bridge, TransformerBridge)
    assert not bridge.training
    assert not any(parameter.requires_grad for parameter in bridge.parameters())
    assert bridge.tokenizer.bos_token_id == 0
    tokens = torch.randint(tiny_hub.N_TOKENS, (2, 9))
    expected = AutoModelForCausalLM.from_pretrained(folder).eval()(tokens).logits
    torch.testing.assert_close(bridge(tokens), expected)
    assert model_title(ModelSource(name=str(folder))) == str(folder)


def test_the_dtype_is_that_of_the_weights(folder):
    bridge = load_model(ModelSource(name=str(folder), dtype="bfloat16"), "cpu")
    assert {parameter.dtype for parameter in bridge.parameters()} == {torch.bfloat16}


def test_the_model_that_needs_no_hub_is_not_called_by_the_name_of_the_original():
    assert "dequantised" in model_title(ModelSource())


def test_a_model_that_does_not_exist_says_what_to_do():
    message = refused("nobody/no-such-model")
    assert message.startswith("model nobody/no-such-model could not be loaded (")
    assert "check the name or folder and the network" in message
    assert "model: {name: smollm2}, which needs none" in message


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_folder_that_lacks_a_file_gives_one_line(folder, tmp_path, missing):
    part = tmp_path / "part"
    shutil.copytree(folder, part)
    (part / missing).unlink()
    assert f"model {part} could not be loaded" in refused(part)


@pytest.mark.parametrize("kept", [0, 4, 300, -100])
def test_a_download_that_was_interrupted_gives_one_line(folder, tmp_path, kept):
    part = tmp_path / "part"
    shutil.copytree(folder, part)
    weights = part / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:kept])
    message = refused(part)
    assert f"model {part} could not be loaded (" in message
    assert "an interrupted download resumes when called again" in message


def test_no_cuda_is_said_before_anything_is_loaded(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert refused("nobody/no-such-model", "cuda").endswith("torch sees no CUDA device here; use device: cpu")


@pytest.mark.parametrize("error", [ValueError("no package: do this"), ImportError("no transformers: do this")])
def test_the_model_that_needs_no_hub_but_is_not_there_says_what_to_do(monkeypatch, error):
    from faithfulness_plugin.adapters import smollm2

    def load(**_: Any) -> None:
        raise error

    monkeypatch.setattr(smollm2, "load", load)
    assert refused("smollm2") == str(error)


def test_a_bridge_that_computes_something_else_is_not_taken_for_the_model(tmp_path, monkeypatch):
    """TransformerLens turns the queries and keys of Cohere's models as Llama's are turned; where that is mended, the
    bridge is what is loaded."""
    config = hf.CohereConfig(**tiny_models.GROUPED, logit_scale=0.5, pad_token_id=0, bos_token_id=0, eos_token_id=1)
    model = hf.CohereForCausalLM(config).eval()
    tiny_models.set_large(model)
    model.save_pretrained(tmp_path)
    tiny_hub.tokenizer().save_pretrained(tmp_path)
    tokens = tiny_models.tokens()
    with torch.no_grad():
        wanted = model(tokens).logits
        loaded = load_model(ModelSource(name=str(tmp_path)), "cpu", plain=True)
        logits = loaded(tokens)
    torch.testing.assert_close(getattr(logits, "logits", logits), wanted, rtol=1e-3, atol=1e-4)
    monkeypatch.setattr(TransformerBridge, "forward", lambda bridge, tokens: torch.ones(*tokens.shape, 50))
    with pytest.raises(TrainConfigError, match="bridge of a CohereForCausalLM computes something else than the model"):
        load_model(ModelSource(name=str(tmp_path)), "cpu")
