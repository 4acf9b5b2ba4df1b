"""RELEASE/ID of SAELens's list, against a hub on this machine: SAELens's list and loaders run as they are."""

import json
import re
from collections.abc import Iterator

import pytest
import torch
import yaml
from huggingface_hub import constants
from local_hub import LocalHub, local_hub, publish
from published_files import Published, circuit_tracer, gemma_scope, gemma_scope_2
from sae_lens import SAE
from safetensors.torch import save_file

from faithfulness_plugin import load_transcoder
from faithfulness_plugin.transcoders.formats.errors import FormatError
from faithfulness_plugin.transcoders.formats.request import Request
from faithfulness_plugin.transcoders.load import load_with_files
from faithfulness_plugin.transcoders.releases import release_of

pytestmark = pytest.mark.usefixtures("as_installed")

SCOPE = "gemma-scope-2b-pt-transcoders/layer_3/width_16k/average_l0_54"
SCOPE_2 = "gemma-scope-2-1b-pt-transcoders-all/layer_13_width_16k_l0_small_affine"
QWEN = "mwhanna-qwen3-4b-transcoders/layer_3"
GPT2 = "gpt2-small-res-jb/blocks.8.hook_resid_pre"


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Iterator[LocalHub]:
    with local_hub(tmp_path, monkeypatch) as hub:
        yield hub


def qwen(hub: LocalHub, **tensors: torch.Tensor) -> Published:
    """A layer of mwhanna/qwen3-4b-transcoders, with the files that SAELens's loader wants."""
    it = circuit_tracer()
    it = it.with_tensor("W_skip", None)
    for name, tensor in tensors.items():
        it = it.with_tensor(name, tensor)
    folder = hub.root / "mwhanna/qwen3-4b-transcoders"
    folder.mkdir(parents=True)
    save_file(it.tensors, folder / "layer_3.safetensors")
    (folder / "config.yaml").write_text(yaml.safe_dump({**it.settings, "model_name": "Qwen/Qwen3-4B"}))
    d_sae, d = it.tensors["W_enc"].shape
    sizes = {"d_model": {"value": d}, "d_feature": {"value": d_sae}, "batch_size": {"value": 8}}
    (folder / "wandb-config.yaml").write_text(yaml.safe_dump(sizes))
    return it.with_tensor("W_skip", torch.zeros(d, d))  # for the formula


def gpt2(hub: LocalHub) -> dict[str, torch.Tensor]:
    """An autoencoder as SAELens wrote it before version 6."""
    tensors = {
        "W_enc": torch.randn(6, 20),
        "b_enc": torch.randn(20),
        "W_dec": torch.randn(20, 6),
        "b_dec": torch.randn(6),
    }
    folder = hub.root / "jbloom/GPT2-Small-SAEs-Reformatted/blocks.8.hook_resid_pre"
    folder.mkdir(parents=True)
    save_file(tensors, folder / "sae_weights.safetensors")
    config = {"model_name": "gpt2-small", "hook_point": "blocks.8.hook_resid_pre", "d_in": 6, "d_sae": 20}
    (folder / "cfg.json").write_text(
        json.dumps({**config, "dtype": "float32", "device": "cpu", "l1_coefficient": 8e-5})
    )
    return tensors


def refusal(source: str, **options) -> str:
    with pytest.raises(FormatError) as caught:
        load_transcoder(source, **options)
    assert len(str(caught.value).splitlines()) == 1
    assert re.search("hf:/[^/]", str(caught.value)) is None
    return str(caught.value)


def agrees(read, it: Published) -> bool:
    x = torch.randn(100, read.cfg.d_in, dtype=torch.float64)
    wanted = it.formula({name: tensor.double() for name, tensor in it.tensors.items()}, x)
    return bool((read(x) - wanted).abs().max() < 1e-6 * wanted.abs().max())


def test_gemma_scope(hub):
    it = gemma_scope()
    publish(hub, "google/gemma-scope-2b-pt-transcoders/layer_3/width_16k/average_l0_54", it)
    read = load_transcoder(SCOPE, dtype=torch.float64)
    assert agrees(read, it)
    said = read.cfg.metadata
    assert (said.model_name, said.l0) == ("google/gemma-2-2b", 54)
    assert (said.hook_name, said.hook_name_out) == ("blocks.3.ln2.hook_normalized", "blocks.3.hook_mlp_out")
    assert said.neuronpedia_id == "gemma-2-2b/3-gemmascope-transcoder-16k"
    assert [file.name for file in load_with_files(SCOPE, Request()).files()] == ["params.npz"]
    assert "of layer 3, and layer=4 was asked for" in refusal(SCOPE, layer=4)
    assert "reads" in refusal(SCOPE, autoencoder=True)


@pytest.mark.parametrize("with_config", [True, False])
def test_gemma_scope_2_is_attached_where_the_hugging_face_names_say(with_config, hub):
    it = gemma_scope_2()
    folder = publish(hub, "google/gemma-scope-2-1b-pt/transcoder_all/layer_13_width_16k_l0_small_affine", it)
    if not with_config:  # some were published so
        (folder / "config.json").unlink()
    read = load_transcoder(SCOPE_2, dtype=torch.float64)
    assert agrees(read, it)
    said = read.cfg.metadata
    assert said.model_name == "google/gemma-3-1b-pt"
    assert said.hf_hook_name == "model.layers.13.pre_feedforward_layernorm.output"
    assert said.hf_hook_name_out == "model.layers.13.post_feedforward_layernorm.output"
    assert said.hook_name is None  # SAELens's is blocks.13.hook_mlp_in, before the norm
    assert said.l0


def test_gemma_scope_2_as_saelens_saves_it(hub, tmp_path):
    """Its hook_name is before the norm there, and its hf_hook_name is right: both are kept, and the latter counts."""
    it = gemma_scope_2()
    publish(hub, "google/gemma-scope-2-1b-pt/transcoder_all/layer_13_width_16k_l0_small_affine", it)
    release, sae_id = SCOPE_2.split("/")
    SAE.from_pretrained(release, sae_id).save_model(tmp_path / "saved")
    read = load_transcoder(tmp_path / "saved", dtype=torch.float64)
    assert agrees(read, it)
    said = read.cfg.metadata
    assert (said.hook_name, said.hook_name_out) == ("blocks.13.hook_mlp_in", "blocks.13.hook_mlp_out")
    assert said.hf_hook_name == "model.layers.13.pre_feedforward_layernorm.output"
    assert said.hf_hook_name_out == "model.layers.13.post_feedforward_layernorm.output"


def test_qwen_through_saelens_own_loader(hub, monkeypatch):
    it = qwen(hub)
    read = load_transcoder(QWEN, dtype=torch.float64)
    assert agrees(read, it)
    said = read.cfg.metadata
    assert (said.model_name, said.hook_name, said.hook_name_out) == (
        "Qwen/Qwen3-4B",
        "blocks.3.mlp.hook_in",
        "blocks.3.hook_mlp_out",
    )
    hub.disconnect()  # and from the cache, with no second try
    assert agrees(load_transcoder(QWEN, dtype=torch.float64), it)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert agrees(load_transcoder(QWEN, dtype=torch.float64), it)
    assert constants.HF_HUB_OFFLINE


@pytest.mark.parametrize("name", ["k", "surprise"])
def test_a_tensor_that_saelens_loader_leaves_out_is_refused(name, hub):
    qwen(hub, **{name: torch.tensor(3.0)})
    assert name in refusal(QWEN)
    for source, place, it in (
        (SCOPE, "google/gemma-scope-2b-pt-transcoders/layer_3/width_16k/average_l0_54", gemma_scope()),
        (SCOPE_2, "google/gemma-scope-2-1b-pt/transcoder_all/layer_13_width_16k_l0_small_affine", gemma_scope_2()),
    ):
        publish(hub, place, it.with_tensor(name, torch.tensor(3.0)))
        assert f"the tensor {name}, which" in refusal(source)


def test_weights_that_are_not_finite(hub):
    qwen(hub, b_dec=torch.full((6,), torch.nan))
    assert "b_dec has 6 of 6 values that are NaN or infinite" in refusal(QWEN)


def test_an_autoencoder_only_where_it_is_asked_for(hub):
    w = {name: tensor.double() for name, tensor in gpt2(hub).items()}
    assert "is an autoencoder" in (said := refusal(GPT2))
    assert "blocks.8.hook_resid_pre" in said
    assert "autoencoder=True" in said
    read = load_transcoder(GPT2, dtype=torch.float64, autoencoder=True)
    x = torch.randn(50, 6, dtype=torch.float64)
    wanted = ((x - w["b_dec"]) @ w["W_enc"] + w["b_enc"]).relu() @ w["W_dec"] + w["b_dec"]
    torch.testing.assert_close(read(x), wanted, rtol=1e-6, atol=1e-6)
    said = read.cfg.metadata
    assert said.autoencoder
    assert said.hook_name == said.hook_name_out == "blocks.8.hook_resid_pre"


def test_an_autoencoder_is_refused_before_it_is_fetched(hub):
    said = refusal("gemma-scope-2b-pt-res/layer_0/width_16k/average_l0_105")
    assert "is an autoencoder of blocks.0.hook_resid_post" in said
    assert "autoencoder=True" in said
    assert not hub.requests


def test_what_is_not_in_the_list(hub):
    assert "did you mean gemma-scope-2b-pt-transcoders" in refusal("gemma-scope-2b-pt-transcoder/layer_3")
    said = refusal(SCOPE.replace("_54", "_55"))
    assert "has no layer_3/width_16k/average_l0_55: did you mean layer_3/width_16k/average_l0_54" in said
    said = refusal("gemma-scope-2b-pt-transcoders")
    assert "is a release of 26" in said
    assert "pass gemma-scope-2b-pt-transcoders/ID" in said
    assert "did you mean" not in refusal("no/such/path")
    assert not hub.requests


def test_a_layer_of_a_cross_layer_transcoder_is_not_the_sum_of_its_decoders(hub):
    assert "is a layer of a cross-layer transcoder" in refusal("mntss-gemma-2-2b-2.5m-clt-as-per-layer/layer_0")
    assert not hub.requests


@pytest.mark.parametrize("source", [SCOPE, SCOPE_2, QWEN])
def test_without_a_network(source, hub):
    hub.disconnect()
    said = refusal(source)
    assert "the hub cannot be reached" in said
    assert said.count("hf://") == 1


def test_a_folder_of_that_name_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert release_of(GPT2) is not None
    (tmp_path / GPT2).mkdir(parents=True)
    assert release_of(GPT2) is None
    assert release_of(f"./{GPT2}") is None
