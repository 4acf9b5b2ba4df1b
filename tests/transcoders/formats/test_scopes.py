"""The formats of the large published sets say more than their function: hooks, models, and which are autoencoders."""

import json
import pickle
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from published_files import (
    D,
    N,
    Published,
    gemma_scope,
    gemma_scope_2,
    llama_scope,
    llamascopium,
    transcoder_circuits,
)
from safetensors.torch import save_file

from faithfulness_plugin import load_transcoder
from faithfulness_plugin.transcoders.formats.errors import FormatError
from faithfulness_plugin.transcoders.formats.gemma_scope_2 import model_name

pytestmark = pytest.mark.usefixtures("as_installed")


def write(folder: Path, it: Published, **settings) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in settings.items():
        it = it.with_setting((), name, value)
    return it.write(folder, it)


def without(folder: Path, it: Published, *names: str) -> Path:
    """Written without some settings."""
    path = write(folder, it)
    assert it.config is not None
    kept = {name: value for name, value in it.settings.items() if name not in names}
    (folder / it.config).write_text(json.dumps(kept))
    return path


def refusal(path: Path, **options) -> str:
    with pytest.raises(FormatError) as caught:
        load_transcoder(path, **options)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def computes(read, it: Published) -> bool:
    x = torch.randn(200, D, dtype=torch.float64)
    wanted = it.formula({name: tensor.double() for name, tensor in it.tensors.items()}, x)
    return bool((read(x) - wanted).abs().max() < 1e-6 * wanted.abs().max())


class TestGemmaScope:
    def test_hooks_only_where_the_path_names_the_published_set(self, tmp_path):
        said = load_transcoder(write(tmp_path / "mine/layer_7/width_16k/average_l0_60", gemma_scope())).cfg.metadata
        assert (said.layer, said.l0) == (7, 60)
        assert (said.hook_name, said.hook_name_out, said.model_name) == (None, None, None)
        place = tmp_path / "models--google--gemma-scope-2b-pt-transcoders/snapshots/0/layer_7/width_16k/average_l0_60"
        said = load_transcoder(write(place, gemma_scope())).cfg.metadata
        assert (said.hook_name, said.hook_name_out) == ("blocks.7.ln2.hook_normalized", "blocks.7.hook_mlp_out")
        assert said.model_name == "google/gemma-2-2b"
        said = load_transcoder(write(tmp_path / "bare", gemma_scope()) / "params.npz").cfg.metadata
        assert (said.layer, said.l0, said.source) == (None, None, "gemma-scope")

    @pytest.mark.parametrize(
        ("repo", "hook", "model"),
        [
            ("gemma-scope-9b-it-res", "blocks.7.hook_resid_post", "google/gemma-2-9b-it"),
            ("gemma-scope-2b-pt-mlp", "blocks.7.hook_mlp_out", "google/gemma-2-2b"),
            ("gemma-scope-27b-pt-att", "blocks.7.attn.hook_z", "google/gemma-2-27b"),
        ],
    )
    def test_its_autoencoders_are_told_by_the_repository(self, repo, hook, model, tmp_path):
        path = write(tmp_path / repo / "layer_7/width_16k/average_l0_60", it := gemma_scope())
        assert f"an autoencoder of {hook}" in refusal(path)
        read = load_transcoder(path, autoencoder=True, dtype=torch.float64)
        assert computes(read, it)
        said = read.cfg.metadata
        assert said.autoencoder
        assert (said.hook_name, said.hook_name_out, said.model_name) == (hook, hook, model)

    def test_an_array_of_objects_is_not_unpickled(self, tmp_path):
        np.savez(tmp_path / "params.npz", W_enc=np.array([{"a": 1}], dtype=object))
        assert "params.npz" in refusal(tmp_path)

    def test_a_file_of_another_name(self, tmp_path):
        file = write(tmp_path, it := gemma_scope()) / "params.npz"
        assert computes(load_transcoder(file.rename(tmp_path / "layer_7.npz"), dtype=torch.float64), it)


class TestGemmaScope2:
    def test_what_it_says(self, tmp_path):
        said = load_transcoder(write(tmp_path, gemma_scope_2())).cfg.metadata
        assert said.hf_hook_name == "model.layers.13.pre_feedforward_layernorm.output"
        assert said.hf_hook_name_out == "model.layers.13.post_feedforward_layernorm.output"
        assert (said.model_name, said.l0, said.hook_name) == ("google/gemma-3-1b-pt", 9, None)

    def test_its_autoencoders(self, tmp_path):
        hook = "model.layers.13.output"
        it = gemma_scope_2(affine=False)
        path = write(tmp_path, it, type="sae", hf_hook_point_in=hook, hf_hook_point_out=hook)
        assert f"an autoencoder of {hook}" in refusal(path)
        read = load_transcoder(path, autoencoder=True, dtype=torch.float64)
        assert computes(read, it)
        assert read.cfg.metadata.autoencoder
        assert read.cfg.metadata.hf_hook_name == read.cfg.metadata.hf_hook_name_out == hook

    @pytest.mark.parametrize("kind", ["crosscoder", "clt", "weakly_causal_crosscoder"])
    def test_what_has_many_layers_is_named(self, kind, tmp_path):
        assert "is a crosscoder or a cross-layer transcoder" in refusal(write(tmp_path, gemma_scope_2(), type=kind))

    @pytest.mark.parametrize(
        ("settings", "said"),
        [
            ({"type": "other"}, "type: 'other', which is not known here"),
            ({"architecture": "topk"}, "architecture: 'topk'"),
            ({"type": "sae"}, "says type: sae, and reads"),
            ({"hf_hook_point_out": None}, "lacks an hf_hook_point_out"),
            ({"affine_connection": False}, "affine_connection: False, and params.safetensors has affine_skip"),
            ({"width": 99}, "width in config.json is 99"),
            ({"width": 0}, "width in config.json is 0"),
        ],
    )
    def test_settings_that_contradict_each_other(self, settings, said, tmp_path):
        assert said in refusal(write(tmp_path, gemma_scope_2(), **settings))

    def test_an_affine_connection_that_is_missing(self, tmp_path):
        it = gemma_scope_2().with_tensor("affine_skip_connection", None)
        assert "lacks affine_skip_connection" in refusal(write(tmp_path, it))

    @pytest.mark.parametrize(
        ("said", "name"),
        [
            ("gemma-v3-1b-pt", "google/gemma-3-1b-pt"),
            ("google/gemma-3-4b-it", "google/gemma-3-4b-it"),
            ("gemma-v3-270m-pt", "google/gemma-3-270m"),
            ("gemma-v3-270m-it", "google/gemma-3-270m-it"),
            ("tiny/gemma3", "tiny/gemma3"),
        ],
    )
    def test_the_model_by_its_name_on_the_hub(self, said, name):
        assert model_name(said) == name


class TestTranscoderCircuits:
    def test_what_it_says(self, tmp_path):
        said = load_transcoder(write(tmp_path, transcoder_circuits())).cfg.metadata
        assert (said.hook_name, said.hook_name_out) == ("blocks.8.ln2.hook_normalized", "blocks.8.hook_mlp_out")
        assert said.model_name == "gpt2-small"

    def test_an_autoencoder(self, tmp_path):
        it = transcoder_circuits().with_tensor("b_dec_out", None).with_tensor("W_dec", torch.randn(N, D))
        path = write(tmp_path, it, is_transcoder=False, d_out=None)
        assert "an autoencoder of blocks.8.ln2.hook_normalized" in refusal(path)
        read = load_transcoder(path, autoencoder=True, dtype=torch.float64)
        w, x = {name: tensor.double() for name, tensor in it.tensors.items()}, torch.randn(50, D, dtype=torch.float64)
        wanted = ((x - w["b_dec"]) @ w["W_enc"] + w["b_enc"]).relu() @ w["W_dec"] + w["b_dec"]
        torch.testing.assert_close(read(x), wanted, rtol=1e-6, atol=1e-6)

    def test_a_folder_of_several(self, tmp_path):
        file = write(tmp_path, it := transcoder_circuits())
        assert computes(load_transcoder(tmp_path, dtype=torch.float64), it)
        (tmp_path / file.name.replace("blocks.8", "blocks.9")).write_bytes(file.read_bytes())
        torch.save(torch.zeros(N), tmp_path / file.name.replace(".pt", "_log_feature_sparsity.pt"))
        assert "pass one of these files, or layer=" in refusal(tmp_path)
        assert computes(load_transcoder(tmp_path, layer=8, dtype=torch.float64), it)
        assert "none of layer 7" in refusal(tmp_path, layer=7)

    @pytest.mark.parametrize("settings", [{"hook_point_head_index": 3}, {"out_hook_point": None}])
    def test_settings_that_are_not_read(self, settings, tmp_path):
        assert next(iter(settings)) in refusal(write(tmp_path, transcoder_circuits(), **settings))

    def test_nothing_pickled_is_run(self, tmp_path, monkeypatch):
        """Not where the class of settings is there, and has behaviour; not any other class or function."""
        ran = []

        class LanguageModelSAERunnerConfig:
            def __setstate__(self, state):
                ran.append(state)

        module = types.ModuleType("sae_training.config")
        module.LanguageModelSAERunnerConfig = LanguageModelSAERunnerConfig  # pyright: ignore[reportAttributeAccessIssue]
        path = write(tmp_path, it := transcoder_circuits())
        monkeypatch.setitem(sys.modules, "sae_training", types.ModuleType("sae_training"))
        monkeypatch.setitem(sys.modules, "sae_training.config", module)
        assert computes(load_transcoder(path, dtype=torch.float64), it)
        assert not ran

        torch.save({"cfg": _Runs(), "state_dict": it.tensors}, path)
        assert "needs builtins.exec to be unpickled" in refusal(path).replace("__builtin__", "builtins")


class _Runs:
    def __reduce__(self):
        return exec, ("raise AssertionError('this ran')",)  # not print, which Ray replaces in its processes


class TestLlamascopium:
    def test_what_it_says(self, tmp_path):
        said = load_transcoder(write(tmp_path / "Llama3_1-8B-Base-L8TC-8x", llama_scope())).cfg.metadata
        assert (said.hook_name, said.hook_name_out) == ("blocks.8.ln2.hook_normalized", "blocks.8.hook_mlp_out")
        assert said.model_name == "meta-llama/Llama-3.1-8B"
        assert load_transcoder(write(tmp_path / "mine", llama_scope())).cfg.metadata.model_name is None

    def test_an_autoencoder(self, tmp_path):
        it = llamascopium("relu", "inference")
        hook = "blocks.8.hook_resid_post"
        path = write(tmp_path, it, hook_point_in=hook, hook_point_out=hook)
        assert f"an autoencoder of {hook}" in refusal(path)
        assert computes(load_transcoder(path, autoencoder=True, dtype=torch.float64), it)

    @pytest.mark.parametrize("norm", ["token-wise", "batch-wise"])
    def test_scales_that_change_with_the_row_are_refused(self, norm, tmp_path):
        assert f"norm_activation: {norm}" in refusal(write(tmp_path, llama_scope(), norm_activation=norm))

    @pytest.mark.parametrize("it", [llama_scope, lambda: llamascopium("topk")])
    def test_what_decides_the_function_has_to_be_stated(self, it, tmp_path):
        for name in ("norm_activation", "sparsity_include_decoder_norm", "act_fn"):
            assert f"lacks {name}" in refusal(without(tmp_path / name, it(), name))

    @pytest.mark.parametrize(
        ("settings", "said"),
        [
            ({"act_fn": "batchtopk"}, "batchtopk chooses over a batch"),
            ({"sae_type": "clt"}, "sae_type: 'clt'"),
            ({"use_glu_encoder": True}, "use_glu_encoder: True"),
            ({"d_model": 99}, "d_model in hyperparams.json is 99"),
            ({"dataset_average_activation_norm": {"in": 3.0}}, "the average norm at blocks.8.hook_mlp_out"),
            ({"dataset_average_activation_norm": {"in": 3.0, "out": -1.0}}, "is -1.0: a positive number"),
        ],
    )
    def test_settings_that_are_not_read(self, settings, said, tmp_path):
        assert said in refusal(write(tmp_path, llama_scope(), **settings))

    def test_the_bias_that_an_encoder_subtracts(self, tmp_path):
        it = llama_scope().with_setting((), "act_fn", "relu")
        read = load_transcoder(write(tmp_path, it, apply_decoder_bias_to_pre_encoder=True), dtype=torch.float64)
        w, x = {name: tensor.double() for name, tensor in it.tensors.items()}, torch.randn(50, D, dtype=torch.float64)
        norms = it.settings["dataset_average_activation_norm"]
        s_in, s_out = (D**0.5 / norms[end] for end in ("in", "out"))
        z = (s_in * x - w["decoder.bias"]) @ w["encoder.weight"].T + w["encoder.bias"]
        wanted = (z.relu() @ w["decoder.weight"].T + w["decoder.bias"]) / s_out
        torch.testing.assert_close(read(x), wanted, rtol=1e-6, atol=1e-6)

    def test_topk_with_a_threshold_is_read_as_the_library_reads_it(self, tmp_path):
        it = llama_scope()
        assert computes(load_transcoder(write(tmp_path, it, act_fn="topk"), dtype=torch.float64), it)

    def test_checkpoints_of_torch(self, tmp_path):
        it = llamascopium("jumprelu")
        path = write(tmp_path, it)
        (path / it.weights).unlink()
        torch.save({"sae": it.tensors, "version": "2.0.0"}, path / "sae_weights.pt")
        assert computes(load_transcoder(path, dtype=torch.float64), it)
        assert computes(load_transcoder(path / "sae_weights.pt", dtype=torch.float64), it)

    def test_norms_that_nothing_was_scaled_by_are_not_read(self, tmp_path):
        """The library writes them without values then."""
        it = llamascopium("relu", "inference")
        path = write(tmp_path, it)
        empty = {
            f"dataset_average_activation_norm.{it.settings[f'hook_point_{e}']}": torch.tensor(torch.nan)
            for e in ("in", "out")
        }
        save_file({**it.tensors, **empty}, path / it.weights)
        assert computes(load_transcoder(path, dtype=torch.float64), it)


def test_a_pickle_that_is_no_archive_is_named(tmp_path):
    file = tmp_path / "final_sparse_autoencoder_x.pt"
    file.write_bytes(pickle.dumps({"cfg": 1}, protocol=2))
    assert file.name in refusal(file)
