"""SAELens's folders: its own classes as they are, its autoencoders only where they are asked for."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from oracles import ARCHITECTURES, random_transcoder
from published_files import D, N, sae_lens
from sae_lens import SAE, register_sae_class
from sae_lens.registry import SAE_CLASS_REGISTRY
from sae_lens.saes.transcoder import Transcoder, TranscoderConfig
from safetensors.torch import load_file, save_file

from faithfulness_plugin import load_transcoder, transcoder_jvp
from faithfulness_plugin.transcoders.formats.errors import FormatError

pytestmark = pytest.mark.usefixtures("as_installed")
STOCK = ("transcoder", "skip_transcoder", "jumprelu_transcoder", "jumprelu_skip_transcoder")
AUTOENCODERS = ("standard", "jumprelu", "topk", "gated")


def saved(folder: Path, architecture: str = "jumprelu_transcoder", **settings: Any) -> Path:
    it = sae_lens(architecture, **settings)
    return it.write(folder, it)


def autoencoder(folder: Path, architecture: str, **settings: Any) -> Any:
    """SAELens's own class with random weights, saved by SAELens in float64."""
    sae_class, config_class = SAE_CLASS_REGISTRY[architecture]
    own = {"k": 3} if architecture in ("topk", "abstopk") else {}
    config: Any = config_class(d_in=D, d_sae=N, dtype="float64", **{**own, **settings})
    config.metadata.hook_name = "blocks.1.hook_mlp_out"
    sae = sae_class(config)
    with torch.no_grad():
        for weight in sae.parameters():
            weight.normal_()
        if architecture == "jumprelu":
            sae.threshold.abs_()  # pyright: ignore
    sae.save_model(folder)
    return sae


@pytest.mark.parametrize("architecture", STOCK)
def test_stock_classes_come_back_as_saelens_loads_them(architecture, tmp_path):
    read, theirs = load_transcoder(saved(tmp_path, architecture)), SAE.load_from_disk(tmp_path)
    assert type(read) is type(theirs)
    x = torch.randn(50, D)
    torch.testing.assert_close(read(x), theirs(x))
    assert read.cfg.metadata.hook_name_out == "blocks.1.mlp.hook_out"
    assert read.cfg.metadata.model_name == "tiny"


def test_a_threshold_below_0_is_the_relu_that_saelens_makes_of_it(tmp_path):
    saved(tmp_path)
    weights = load_file(tmp_path / "sae_weights.safetensors")
    save_file({**weights, "threshold": torch.full((N,), -1.0)}, tmp_path / "sae_weights.safetensors")
    x = torch.randn(50, D)
    torch.testing.assert_close(load_transcoder(tmp_path)(x), SAE.load_from_disk(tmp_path)(x))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("normalize_activations", "expected_average_only_in"),
        ("normalize_activations", "layer_norm"),
        ("normalize_activations", "constant_norm_rescale"),
        ("normalize_activations", "covariance_whitening"),
        ("reshape_activations", "hook_z"),
        ("apply_b_dec_to_input", True),
        ("apply_b_dec_to_input", 0),
    ],
)
def test_a_setting_that_changes_the_function_is_refused(name, value, tmp_path):
    with pytest.raises(FormatError, match=f"cfg.json says {name}: {value!r}, which may change the function"):
        load_transcoder(saved(tmp_path, **{name: value}))


def test_settings_of_another_architecture_are_unknown(tmp_path):
    for name in ("k", "skip", "rescale_acts_by_decoder_norm"):
        with pytest.raises(
            FormatError, match=f"the setting {name}, which a SAELens folder's jumprelu_transcoder is not"
        ):
            load_transcoder(saved(tmp_path, "jumprelu_transcoder", **{name: 1}))


@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("architecture", AUTOENCODERS)
def test_an_autoencoder_is_refused_and_read_where_it_is_asked_for(architecture, centred, tmp_path):
    theirs = autoencoder(tmp_path, architecture, apply_b_dec_to_input=centred)
    with pytest.raises(
        FormatError, match=rf"is an autoencoder of blocks.1.hook_mlp_out \(architecture {architecture}\)"
    ):
        load_transcoder(tmp_path)
    read = load_transcoder(tmp_path, autoencoder=True, dtype=None)
    assert isinstance(read, Transcoder)
    x = torch.randn(100, D, dtype=torch.float64)
    torch.testing.assert_close(read(x), theirs(x), rtol=1e-9, atol=1e-9)
    v = torch.randn_like(x)
    Jv = torch.func.jvp(theirs, (x,), (v,))[1]
    torch.testing.assert_close(transcoder_jvp(read, x, v)[1], Jv, rtol=1e-9, atol=1e-9)
    metadata = read.cfg.metadata
    assert metadata.autoencoder is True
    assert metadata.hook_name == metadata.hook_name_out == "blocks.1.hook_mlp_out"
    assert metadata.hf_hook_name_out is None


@pytest.mark.parametrize("by_norm", [False, True])
def test_topk_autoencoders_rank_as_their_settings_say(by_norm, tmp_path):
    theirs = autoencoder(tmp_path, "topk", rescale_acts_by_decoder_norm=by_norm)
    x = torch.randn(100, D, dtype=torch.float64)
    torch.testing.assert_close(load_transcoder(tmp_path, autoencoder=True, dtype=None)(x), theirs(x))


def test_autoencoders_without_a_counterpart_are_named(tmp_path):
    autoencoder(tmp_path, "abstopk")
    with pytest.raises(FormatError, match="architecture abstopk has no counterpart here: choose from transcoder, "):
        load_transcoder(tmp_path, autoencoder=True)


def test_an_autoencoder_that_normalises_is_refused(tmp_path):
    autoencoder(tmp_path, "standard", normalize_activations="layer_norm")
    with pytest.raises(FormatError, match="says normalize_activations: 'layer_norm'"):
        load_transcoder(tmp_path, autoencoder=True)


def rewrite(folder: Path, **metadata: Any) -> None:
    config = json.loads((folder / "cfg.json").read_text())
    (folder / "cfg.json").write_text(json.dumps({**config, "metadata": {**config["metadata"], **metadata}}))


@pytest.mark.parametrize("names", [("hook_name", "hook_name_out"), ("hf_hook_name", "hf_hook_name_out")])
def test_what_reads_what_it_writes_is_an_autoencoder_whatever_its_class(names, tmp_path):
    saved(tmp_path, "transcoder", d_out=D)
    weights = load_file(tmp_path / "sae_weights.safetensors")
    save_file({**weights, "W_dec": torch.randn(N, D), "b_dec": torch.randn(D)}, tmp_path / "sae_weights.safetensors")
    assert load_transcoder(tmp_path).cfg.metadata.autoencoder is None
    with pytest.raises(FormatError, match=r"is a transcoder \(it reads blocks.1.mlp.hook_in and writes blocks.1.mlp"):
        load_transcoder(tmp_path, autoencoder=True)
    rewrite(tmp_path, **dict.fromkeys(names, "somewhere"))
    with pytest.raises(
        FormatError, match=r"is an autoencoder of somewhere: what it reads is what it writes.*--autoenc"
    ):
        load_transcoder(tmp_path)
    assert load_transcoder(tmp_path, autoencoder=True).cfg.metadata.autoencoder is True


def test_an_autoencoder_stays_one_when_it_is_saved_again(tmp_path):
    autoencoder(tmp_path / "sae", "standard")
    load_transcoder(tmp_path / "sae", autoencoder=True).save_model(tmp_path / "again")
    with pytest.raises(FormatError, match="is an autoencoder"):
        load_transcoder(tmp_path / "again")


def test_hooks_of_the_model_itself_decide_before_those_that_saelens_translated(tmp_path):
    """SAELens 6.54 gives Gemma Scope 2 one hook for its input and another for its output, which are not the file's."""
    saved(tmp_path, "transcoder")
    rewrite(tmp_path, hook_name="a", hook_name_out="a", hf_hook_name="in", hf_hook_name_out="out")
    assert load_transcoder(tmp_path).cfg.metadata.hf_hook_name_out == "out"


def test_another_layer_than_the_one_asked_for(tmp_path):
    saved(tmp_path)
    assert load_transcoder(tmp_path, layer=1).cfg.d_in == D
    with pytest.raises(FormatError, match="is of layer 1, and layer=3 was asked for"):
        load_transcoder(tmp_path, layer=3)


@pytest.mark.parametrize(
    ("name", "value"),
    [("hook_name", 3), ("hook_name_out", ["a"]), ("hf_hook_name", {}), ("model_name", 5), ("l0", "12"), ("l0", True)],
)
def test_metadata_of_another_kind(name, value, tmp_path):
    saved(tmp_path, metadata={name: value})
    with pytest.raises(FormatError, match=f"says {name}: .*, and a (name|number) is needed"):
        load_transcoder(tmp_path)


def test_metadata_without_names(tmp_path):
    saved(tmp_path, metadata=None)
    with pytest.raises(
        FormatError, match="says metadata: null, and a SAELens folder's jumprelu_transcoder needs a value there"
    ):
        load_transcoder(tmp_path)


def test_values_that_float32_cannot_hold(tmp_path):
    saved(tmp_path)
    weights = load_file(tmp_path / "sae_weights.safetensors")
    save_file({**weights, "b_dec": weights["b_dec"].double() * 1e300}, tmp_path / "sae_weights.safetensors")
    with pytest.raises(FormatError, match=r"b_dec has values that are too large for torch\.float32: pass dtype=None"):
        load_transcoder(tmp_path)


@pytest.mark.parametrize("layer", ["1", True, 1.0])
def test_a_layer_that_is_no_number(layer, tmp_path):
    with pytest.raises(ValueError, match="pass the number of a block, such as 3"):
        load_transcoder(saved(tmp_path), layer=layer)


def test_an_architecture_that_is_no_name(tmp_path):
    saved(tmp_path)
    config = json.loads((tmp_path / "cfg.json").read_text())
    (tmp_path / "cfg.json").write_text(json.dumps({**config, "architecture": ["standard"]}))
    with pytest.raises(FormatError, match=r"architecture is \['standard'\], and a name is needed"):
        load_transcoder(tmp_path)


@pytest.mark.parametrize("dtype", ["float32", torch.int64, 3])
def test_a_dtype_that_holds_no_weights(dtype, tmp_path):
    with pytest.raises(ValueError, match=r"holds no weights: pass torch.float32, another floating type, or None"):
        load_transcoder(saved(tmp_path), dtype=dtype)


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_checkpoint_of_training_is_what_would_be_exported(architecture, skip, tmp_path):
    training = random_transcoder(architecture, skip=skip).eval()
    training.save_model(tmp_path)
    x = torch.randn(40, 5, dtype=torch.float64)
    torch.testing.assert_close(load_transcoder(tmp_path, dtype=None)(x), training(x))
    config = json.loads((tmp_path / "cfg.json").read_text())
    (tmp_path / "cfg.json").write_text(json.dumps({**config, "surprise": 1}))
    with pytest.raises(FormatError, match="the setting surprise, which a checkpoint of faithful_"):
        load_transcoder(tmp_path)
    (tmp_path / "cfg.json").write_text(json.dumps(config))
    weights = load_file(tmp_path / "sae_weights.safetensors")
    save_file({**weights, "surprise": torch.zeros(1)}, tmp_path / "sae_weights.safetensors")
    with pytest.raises(FormatError, match=r"sae_weights\.safetensors is not what its cfg\.json says: .*surprise"):
        load_transcoder(tmp_path)
    with torch.no_grad():
        training.b_enc[2] = torch.nan
    training.save_model(tmp_path)
    with pytest.raises(FormatError, match="b_enc has 1 of 12 values that are NaN or infinite"):
        load_transcoder(tmp_path)
    with pytest.raises(ValueError, match="NaN or Inf in the weight b_enc: nothing was written"):
        training.save_inference_model(tmp_path / "finished")
    assert not (tmp_path / "finished").exists()


@dataclass
class _OwnConfig(TranscoderConfig):
    apply_b_dec_to_input: bool = False
    slope: float = 1.0

    @classmethod
    def architecture(cls) -> str:
        return "tests_own_transcoder"


class _Own(Transcoder):
    @classmethod
    def from_dict(cls, config_dict: dict[str, Any]) -> "_Own":
        return cls(_OwnConfig.from_dict(config_dict))


def test_a_class_of_another_package_is_loaded_by_saelens_under_the_same_rule(tmp_path):
    if "tests_own_transcoder" not in SAE_CLASS_REGISTRY:
        register_sae_class("tests_own_transcoder", _Own, _OwnConfig)
    saved(tmp_path, "tests_own_transcoder", slope=2.0)
    assert isinstance(load_transcoder(tmp_path), _Own)
    assert load_transcoder(tmp_path, dtype=torch.float64).dtype == torch.float64
    saved(tmp_path, "tests_own_transcoder", slop=2.0)
    with pytest.raises(
        FormatError, match="the setting slop, which a SAELens folder's tests_own_transcoder is not known"
    ):
        load_transcoder(tmp_path)
    it = sae_lens("tests_own_transcoder").with_tensor("surprise", torch.zeros(2))
    with pytest.raises(FormatError, match=r"is not what its cfg\.json says.*surprise"):
        load_transcoder(it.write(tmp_path, it))
    it = sae_lens("tests_own_transcoder").with_tensor("b_enc", torch.full((N,), torch.nan))
    with pytest.raises(FormatError, match="b_enc has 20 of 20 values that are NaN or infinite"):
        load_transcoder(it.write(tmp_path, it))
