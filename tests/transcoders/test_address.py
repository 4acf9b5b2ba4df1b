"""Addresses on the hub, against a hub on this machine: huggingface_hub itself runs, cache and all."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml
from huggingface_hub import constants
from local_hub import LocalHub, local_hub, publish
from published_files import PUBLISHED, circuit_tracer, gemma_scope, gemma_scope_2, transcoder_circuits
from safetensors.torch import save_file

from faithfulness_plugin import load_transcoder
from faithfulness_plugin.adapters.circuit_tracer import load_transcoder_set
from faithfulness_plugin.transcoders.address import HubPath, fetch, needed
from faithfulness_plugin.transcoders.formats.errors import FormatError
from faithfulness_plugin.transcoders.formats.request import Request
from faithfulness_plugin.transcoders.load import load_with_files

pytestmark = pytest.mark.usefixtures("as_installed")

SCOPE = "google/gemma-scope-2b-pt-transcoders"
FOLDER = "layer_3/width_16k/average_l0_54"


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Iterator[LocalHub]:
    with local_hub(tmp_path, monkeypatch) as hub:
        yield hub


def same(one, other) -> bool:
    weights = dict(other.named_parameters())
    return all(torch.equal(weight, weights.pop(name)) for name, weight in one.named_parameters()) and not weights


def refusal(source: str, **options) -> str:
    with pytest.raises(FormatError) as caught:
        load_transcoder(source, **options)
    assert len(str(caught.value).splitlines()) == 1
    assert re.search("hf:/[^/]", str(caught.value)) is None  # an address is no path
    return str(caught.value)


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_format_is_read_from_an_address_as_from_a_folder(name, hub):
    path = publish(hub, "owner/repo/some/folder", PUBLISHED[name]())
    here = load_transcoder(path)
    assert same(load_transcoder("hf://owner/repo/some/folder"), here)
    assert not any(file.endswith(".md") for file in hub.fetched)
    if path.is_file():
        assert same(load_transcoder(f"hf://owner/repo/some/folder/{path.name}"), here)


def test_a_file_comes_with_its_settings(hub):
    path = publish(hub, "owner/repo/a", gemma_scope_2())
    publish(hub, "owner/repo/b", gemma_scope_2())
    assert same(load_transcoder("hf://owner/repo/a/params.safetensors"), load_transcoder(path))
    assert set(hub.fetched) == {"a/config.json", "a/params.safetensors"}


def test_a_revision(hub):
    old, new = publish(hub, "owner/repo@v1/a", gemma_scope()), publish(hub, "owner/repo/a", gemma_scope())
    assert same(load_transcoder("hf://owner/repo@v1/a"), load_transcoder(old))
    assert same(load_transcoder("hf://owner/repo/a"), load_transcoder(new))
    assert "owner/repo has no revision v2" in refusal("hf://owner/repo@v2/a")


def test_what_is_in_the_cache_is_not_fetched_again_and_is_there_without_a_network(hub, monkeypatch):
    source = f"hf://{SCOPE}/{FOLDER}"
    publish(hub, f"{SCOPE}/{FOLDER}", gemma_scope())
    first = load_transcoder(source)
    hub.requests.clear()
    assert same(load_transcoder(source), first)
    assert not hub.fetched
    hub.disconnect()
    assert same(load_transcoder(source), first)
    assert load_with_files(source, Request()).files() == [fetch(HubPath.of(source)).path / "params.npz"]
    said = refusal(f"hf://{SCOPE}/layer_4/width_16k/average_l0_88")
    assert "the hub cannot be reached" in said
    assert "it is not in its cache" in said
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert same(load_transcoder(source), first)
    assert "HF_HUB_OFFLINE is set, and nothing of owner/other is in its cache" in refusal("hf://owner/other")


def test_a_download_that_was_interrupted_is_named_without_a_network_and_completed_with_one(hub):
    path = publish(hub, "owner/repo/a", gemma_scope_2())
    weights = (path / "params.safetensors").read_bytes()
    (path / "params.safetensors").unlink()
    assert "lacks params.safetensors" in refusal("hf://owner/repo/a")
    hub.disconnect()
    assert "its weights are not in its cache" in refusal("hf://owner/repo/a")
    hub.reconnect()
    hub.head["owner/repo"] = "second"
    (path / "params.safetensors").write_bytes(weights)
    assert same(load_transcoder("hf://owner/repo/a"), load_transcoder(path))


def test_a_hub_that_lists_files_as_a_tree_only(hub):
    path = publish(hub, "owner/repo/a", gemma_scope())
    hub.lists_siblings = False
    assert same(load_transcoder("hf://owner/repo/a"), load_transcoder(path))


def test_a_cache_that_was_filled_by_other_means(hub, monkeypatch):
    """Copied from another machine, without what huggingface_hub keeps beside the files."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    folder = hub.cache / f"models--{SCOPE.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("0" * 40)
    (place := folder / "snapshots" / ("0" * 40) / FOLDER).mkdir(parents=True)
    here = load_transcoder((it := gemma_scope()).write(place, it))
    for source in (
        f"hf://{SCOPE}/{FOLDER}",
        f"hf://{SCOPE}/{FOLDER}/params.npz",
        f"{SCOPE.partition('/')[2]}/{FOLDER}",
    ):
        assert same(load_transcoder(source), here)
        assert load_transcoder(source).cfg.metadata.hook_name == "blocks.3.ln2.hook_normalized"


def test_without_a_network_one_line_and_no_second_try(hub):
    hub.disconnect()
    said = refusal(f"hf://{SCOPE}/{FOLDER}")
    assert "the hub cannot be reached" in said
    assert "connect once to fetch it, or pass a local folder" in said


def test_of_a_set_the_layer_that_was_asked_for(hub):
    folder = hub.root / "owner/set"
    for layer in range(3):
        publish(hub, "owner/set", circuit_tracer("jumprelu"))
        (folder / "layer_0.safetensors").rename(folder / f"part_{layer}")
    for layer in range(3):
        (folder / f"part_{layer}").rename(folder / f"layer_{layer}.safetensors")
    one = load_transcoder("hf://owner/set", layer=1)
    assert set(hub.fetched) == {"config.yaml", "layer_1.safetensors"}
    assert one.cfg.metadata.hook_name == "blocks.1.mlp.hook_in"
    assert same(one, load_transcoder(folder, layer=1))
    assert [file.name for file in fetch(HubPath.of("hf://owner/set"), layer=1).files] == [
        "config.yaml",
        "layer_1.safetensors",
    ]
    assert "is a set with the layers 0, 1, 2: pass layer=" in refusal("hf://owner/set")
    assert "no layer 7, but the layers 0, 1, 2" in refusal("hf://owner/set", layer=7)
    every = load_transcoder_set("hf://owner/set")
    assert [*every] == [0, 1, 2]
    assert same(every[1], one)


def test_a_set_whose_parts_are_addresses(hub, tmp_path):
    path = publish(hub, f"{SCOPE}/{FOLDER}", gemma_scope())
    config = {
        "model_name": "google/gemma-2-2b",
        "model_kind": "transcoder_set",
        "feature_input_hook": "mlp.hook_in",
        "feature_output_hook": "hook_mlp_out",
        "transcoders": [f"hf://{SCOPE}/{FOLDER}/params.npz"],
    }
    folder = hub.root / "owner/set"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    for source in ("hf://owner/set", folder):
        read = load_transcoder(source, layer=0)
        assert same(read, load_transcoder(path))
        assert read.cfg.metadata.hook_name == "blocks.0.mlp.hook_in"  # where it reads is what the set says
        assert same(load_transcoder_set(source)[0], read)


def test_a_layer_of_the_2024_files(hub):
    """Their names have the block."""
    it = transcoder_circuits()
    folder = hub.root / "pchlenski/gpt2-transcoders"
    publish(hub, "pchlenski/gpt2-transcoders", it)
    other = it.weights.replace("blocks.8", "blocks.9")
    (folder / other).write_bytes((folder / it.weights).read_bytes())
    assert same(load_transcoder("hf://pchlenski/gpt2-transcoders", layer=8), load_transcoder(folder / it.weights))
    assert hub.fetched == [it.weights]


def test_a_folder_of_many_lists_them(hub):
    for l0 in (54, 88):
        publish(hub, f"{SCOPE}/layer_3/width_16k/average_l0_{l0}", gemma_scope())
    for place in (SCOPE, f"{SCOPE}/layer_3"):
        said = refusal(f"hf://{place}")
        assert "holds 2 transcoders" in said
        assert "width_16k/average_l0_54" in said
        assert "pass one of them, as hf://" in said
    assert not hub.fetched


def test_what_is_not_there(hub):
    publish(hub, f"{SCOPE}/{FOLDER}", gemma_scope())
    assert f"did you mean {FOLDER}" in refusal(f"hf://{SCOPE}/layer_3/width_16k/average_l0_5")
    assert "the hub has no repository owner/nothing" in refusal("hf://owner/nothing/a")
    hub.gated.add(SCOPE)
    said = refusal(f"hf://{SCOPE}/{FOLDER}")
    assert "access" in said
    assert "hf auth login" in said
    (hub.root / "owner/words").mkdir(parents=True)
    (hub.root / "owner/words/README.md").write_text("words")
    assert "holds no transcoder" in refusal("hf://owner/words")


def test_cross_layer_transcoders_are_named_before_anything_is_fetched(hub):
    folder = hub.root / "mntss/clt"
    folder.mkdir(parents=True)
    for layer in range(2):
        save_file({f"W_enc_{layer}": torch.zeros(2)}, folder / f"W_enc_{layer}.safetensors")
        save_file({f"W_dec_{layer}": torch.zeros(2)}, folder / f"W_dec_{layer}.safetensors")
    assert "is a cross-layer transcoder" in refusal("hf://mntss/clt")
    assert not hub.fetched


@pytest.mark.parametrize("text", ["hf://", "hf://owner", "hf://owner/re po/x", "hf://owner/repo@/x"])
def test_what_is_no_address(text, hub):
    assert "is no address" in refusal(text)
    assert not hub.requests


@pytest.mark.parametrize(
    ("text", "of"),
    [
        ("hf://a/b", HubPath("a/b")),
        ("hf://a/b/", HubPath("a/b")),
        ("hf://a/b/c/d.npz", HubPath("a/b", "c/d.npz")),
        ("hf://a/b@v1/c", HubPath("a/b", "c", "v1")),
        ("hf://a/b@refs/pr/3/c", HubPath("a/b", "c", "refs/pr/3")),
        (Path("hf://a/b/c"), HubPath("a/b", "c")),
    ],
)
def test_the_parts_of_an_address(text, of):
    assert HubPath.of(text) == of
    assert HubPath.of(str(of)) == of


def test_of_several_files_of_weights_the_one_that_a_format_knows():
    of = HubPath("a/b")
    assert needed(of, ["cfg.json", "sae_weights.safetensors", "sparsity.safetensors"], None) == [
        "cfg.json",
        "sae_weights.safetensors",
    ]
    with pytest.raises(FormatError, match=r"holds 2 files of weights: x\.pt, y\.pt"):
        needed(of, ["x.pt", "y.pt"], None)
    settings = ["run/config.json", "run/checkpoints/ae_9.pt"]  # dictionary_learning's checkpoints
    assert sorted(needed(HubPath("a/b", settings[1]), settings, None)) == sorted(settings)


def test_the_settings_of_a_cached_folder_do_not_come_from_elsewhere(hub):
    """Two addresses in one repository: each is read with its own files."""
    one, other = (publish(hub, f"owner/repo/{name}", gemma_scope_2()) for name in ("one", "other"))
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "l0": 77}))
    assert load_transcoder("hf://owner/repo/other").cfg.metadata.l0 == 77
    assert load_transcoder("hf://owner/repo/one").cfg.metadata.l0 == 9
    assert one.exists()
