"""circuit-tracer's sets: activations that its settings or files say, and lists of files and addresses."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from published_files import D, K, N, Published, circuit_tracer
from safetensors.torch import save_file

from faithfulness_plugin import TopKTranscoder, load_transcoder, metrics, transcoder_jvp
from faithfulness_plugin.adapters.circuit_tracer import load_transcoder_set
from faithfulness_plugin.transcoders.address import Fetched, HubPath
from faithfulness_plugin.transcoders.formats.errors import FormatError

pytestmark = pytest.mark.usefixtures("as_installed")
THRESHOLD = "activation_function.threshold"


def written(folder: Path, it: Published, **settings: Any) -> Path:
    """A set with other settings; those that are None are left out."""
    folder.mkdir(exist_ok=True, parents=True)
    path = it.write(folder, it)
    kept = {name: value for name, value in {**it.settings, **settings}.items() if value is not None}
    (path / "config.yaml").write_text(yaml.safe_dump(kept))
    return path


@pytest.mark.parametrize("k", [K, N])
def test_topk_keeps_features_below_0_and_has_the_jacobian_of_those_that_stay(k, tmp_path):
    it = circuit_tracer("topk")
    read = load_transcoder(written(tmp_path, it, k=k), dtype=torch.float64)
    assert isinstance(read, TopKTranscoder)
    w = {name: tensor.double() for name, tensor in it.tensors.items()}
    x = torch.randn(30, D, dtype=torch.float64)
    z = x @ w["W_enc"].T + w["b_enc"]
    gate = torch.zeros_like(z).scatter(-1, z.topk(k).indices, 1.0)
    assert ((z * gate) < 0).any() == (k == N)
    v = torch.randn_like(x)
    y, Jv = transcoder_jvp(read, x, v)
    torch.testing.assert_close(y, (z * gate) @ w["W_dec"] + w["b_dec"] + x @ w["W_skip"].T)
    torch.testing.assert_close(Jv, ((v @ w["W_enc"].T) * gate) @ w["W_dec"] + v @ w["W_skip"].T)
    assert metrics.jacobian_error(read, lambda rows: rows**2, x).relative_error > 0
    read.save_model(tmp_path / "saved")
    torch.testing.assert_close(load_transcoder(tmp_path / "saved", dtype=None)(x), y)


@pytest.mark.parametrize(
    ("it", "settings", "message"),
    [
        (lambda: circuit_tracer("topk"), {"k": None}, "says activation: topk, and neither it nor .* says k: add k"),
        (lambda: circuit_tracer("topk"), {"k": N + 1}, f"k is {N + 1}, and of {N} features 1 to {N} can stay"),
        (lambda: circuit_tracer("topk"), {"k": "3"}, "k is '3', and of 20 features 1 to 20 can stay"),
        (circuit_tracer, {"k": 3}, "says k: 3, and not activation: topk, with which alone k is read"),
        (
            lambda: circuit_tracer("jumprelu"),
            {"activation": "relu"},
            f"activation: relu, and .*has the tensor {THRESHOLD}",
        ),
        (
            lambda: circuit_tracer("jumprelu"),
            {"activation": "topk", "k": 3},
            f"topk, and .* has the tensor {THRESHOLD}",
        ),
        (circuit_tracer, {"activation": "jumprelu"}, f"activation: jumprelu, and .* lacks {THRESHOLD}"),
        (circuit_tracer, {"activation": "gelu"}, "says activation: 'gelu', which may change the function"),
        (
            lambda: circuit_tracer(k_in_file=True),
            {"activation": "relu"},
            "says activation: relu, and .*has the tensor k",
        ),
        (lambda: circuit_tracer(k_in_file=True), {"k": 4}, "says k: 4, and the tensor k of .* is 3: one is wrong"),
        (circuit_tracer, {"model_kind": "cross_layer_transcoder"}, "is a cross-layer transcoder"),
        (circuit_tracer, {"model_kind": "other"}, "says model_kind: 'other'"),
        (circuit_tracer, {"feature_output_hook": "mlp.hook_in"}, "is an autoencoder of blocks.0.mlp.hook_in"),
        (circuit_tracer, {"transcoders": "a"}, "transcoders is to be a list of paths or hf:// addresses"),
        (circuit_tracer, {"transcoders": []}, "transcoders is to be a list of paths or hf:// addresses"),
        (circuit_tracer, {"feature_input_hook": ["a"]}, r"says feature_input_hook: \['a'\], and the name of a tensor"),
        (circuit_tracer, {"feature_output_hook": 3}, "says feature_output_hook: 3, and the name of a tensor"),
        (circuit_tracer, {"model_name": 3}, "says model_name: 3, and a name is needed"),
        (circuit_tracer, {"transcoders": [{"layer": 0}]}, "transcoders is to be a list of paths or hf:// addresses"),
        (circuit_tracer, {"transcoders": ["gone.safetensors"]}, "gone.safetensors cannot be read"),
    ],
)
def test_what_contradicts_itself_is_named(it, settings, message, tmp_path):
    with pytest.raises(FormatError, match=message) as caught:
        load_transcoder(written(tmp_path, it(), **settings))
    assert len(str(caught.value).splitlines()) == 1


def test_thresholds_below_0_have_no_class(tmp_path):
    it = circuit_tracer("jumprelu").with_tensor(THRESHOLD, torch.linspace(-1, 1, N))
    with pytest.raises(FormatError, match="has 10 thresholds below 0, under which features are negative"):
        load_transcoder(it.write(tmp_path, it))


def test_a_list_of_files_here_and_of_addresses(tmp_path, monkeypatch):
    first, second = circuit_tracer(), circuit_tracer()
    second.write(tmp_path, second)
    (tmp_path / "layer_0.safetensors").rename(tmp_path / "second.safetensors")
    folder = tmp_path / "set"
    (folder / "elsewhere").mkdir(parents=True)
    save_file(first.tensors, folder / "elsewhere" / "a.safetensors")
    asked = []

    def fetch(of: HubPath) -> Fetched:
        asked.append(str(of))
        return Fetched(tmp_path / "second.safetensors", [tmp_path / "second.safetensors"])

    monkeypatch.setattr("faithfulness_plugin.transcoders.formats.circuit_tracer.fetch", fetch)
    parts = [
        "elsewhere/a.safetensors",
        "hf://owner/repo/a/second.safetensors?revision=v1",
        str(tmp_path / "second.safetensors"),
    ]
    (folder / "config.yaml").write_text(yaml.safe_dump({**first.settings, "transcoders": parts}))
    x = torch.randn(20, D, dtype=torch.float64)
    both = load_transcoder_set(folder, dtype=torch.float64)
    assert [*both] == [0, 1, 2]
    assert asked == ["hf://owner/repo@v1/a/second.safetensors"]
    for layer, it in enumerate((first, second, second)):
        wanted = it.formula({name: tensor.double() for name, tensor in it.tensors.items()}, x)
        torch.testing.assert_close(both[layer](x), wanted)
        assert both[layer].cfg.metadata.hook_name == f"blocks.{layer}.mlp.hook_in"
    with pytest.raises(FormatError, match="with the layers 0, 1, 2: pass layer="):
        load_transcoder(folder)
    with pytest.raises(FormatError, match="with no layer 7, but the layers 0, 1, 2"):
        load_transcoder(folder, layer=7)


def test_a_list_of_gemma_scopes_files_reads_and_writes_where_the_set_says(tmp_path):
    it = circuit_tracer()
    weights = {"W_enc": torch.randn(D, N), "W_dec": torch.randn(N, D), "b_enc": torch.randn(N)}
    weights |= {"b_dec": torch.randn(D), "threshold": torch.rand(N)}
    arrays: dict[str, Any] = {name: value.numpy() for name, value in weights.items()}
    np.savez(tmp_path / "params.npz", **arrays)
    settings = {**it.settings, "transcoders": ["params.npz"], "feature_input_hook": "ln2.hook_normalized"}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings))
    read = load_transcoder(tmp_path, layer=0)
    x = torch.randn(20, D)
    z = x @ weights["W_enc"] + weights["b_enc"]
    torch.testing.assert_close(read(x), z * (z > weights["threshold"]) @ weights["W_dec"] + weights["b_dec"])
    assert read.cfg.metadata.hook_name == "blocks.0.ln2.hook_normalized"
    assert read.cfg.metadata.model_name == "tiny"
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({**settings, "activation": "topk", "k": 3}))
    with pytest.raises(FormatError, match=r"says activation: topk, which .*params\.npz is not read with"):
        load_transcoder(tmp_path)


def test_no_set(tmp_path):
    with pytest.raises(FormatError, match=r"is no circuit-tracer set, which has config\.yaml"):
        load_transcoder_set(tmp_path)
    it = circuit_tracer()
    (it.write(tmp_path, it) / "layer_0.safetensors").unlink()
    with pytest.raises(FormatError, match=r"and lacks layer_N\.safetensors: copy them there"):
        load_transcoder_set(tmp_path)


def test_a_cross_layer_transcoder_is_named_for_what_it_is(tmp_path):
    for layer in range(2):
        save_file({f"W_enc_{layer}": torch.zeros(N, D)}, tmp_path / f"W_enc_{layer}.safetensors")
        save_file({f"W_dec_{layer}": torch.zeros(N, 2 - layer, D)}, tmp_path / f"W_dec_{layer}.safetensors")
    message = (
        "is a cross-layer transcoder: each of its features writes to all later layers, so that it replaces no single"
    )
    for path in (tmp_path, tmp_path / "W_dec_1.safetensors"):
        with pytest.raises(FormatError, match=message):
            load_transcoder(path, layer=0)
