import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from oracles import ARCHITECTURES, random_transcoder
from safetensors.torch import save_file
from torch import Tensor

from faithfulness_plugin import TopKTranscoder, load_transcoder
from faithfulness_plugin.adapters.circuit_tracer import export_transcoder_set
from faithfulness_plugin.transcoders.formats.errors import FormatError

pytestmark = pytest.mark.usefixtures("as_installed")
D, N, K = 6, 20, 3


def sparsify_folder(folder: Path, config: dict[str, Any] | None = None, lacks: str = "") -> dict[str, Tensor]:
    """Write a folder as sparsify does; it is read beside the library itself in tests/adapters."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {
        "encoder.weight": torch.randn(N, D),
        "encoder.bias": torch.randn(N),
        "W_dec": torch.randn(N, D),
        "b_dec": torch.randn(D),
        "W_skip": torch.randn(D, D),
    }
    save_file({name: weight for name, weight in weights.items() if name != lacks}, folder / "sae.safetensors")
    settings = {"k": K, "d_in": D, "transcode": True, "activation": "topk"} if config is None else config
    (folder / "cfg.json").write_text(json.dumps(settings))
    return weights


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_what_we_export_is_read_back(architecture, skip, tmp_path):
    transcoder = random_transcoder(architecture, skip=skip).eval()
    transcoder.save_inference_model(tmp_path)
    x = torch.randn(30, 5, dtype=torch.float64)
    torch.testing.assert_close(load_transcoder(tmp_path, dtype=None)(x), transcoder(x))
    read = load_transcoder(str(tmp_path))
    assert read.dtype == torch.float32
    torch.testing.assert_close(read(x.float()), transcoder(x).float(), rtol=1e-4, atol=1e-4)


def test_a_sparsify_folder_is_the_function_that_its_formula_says(tmp_path):
    weights, x = sparsify_folder(tmp_path / "layers.3.mlp"), torch.randn(40, D)
    read = load_transcoder(tmp_path / "layers.3.mlp")
    assert isinstance(read, TopKTranscoder)
    pre = torch.relu(x @ weights["encoder.weight"].T + weights["encoder.bias"])
    kept = pre >= pre.topk(K).values[:, -1:]
    wanted = (pre * kept) @ weights["W_dec"] + weights["b_dec"] + x @ weights["W_skip"].T
    torch.testing.assert_close(read(x), wanted, rtol=1e-4, atol=1e-4)
    assert (read.cfg.metadata.source, read.cfg.metadata.hookpoint) == ("sparsify", "layers.3.mlp")


def test_an_autoencoder_subtracts_its_bias_first(tmp_path):
    weights = sparsify_folder(tmp_path, {"k": K, "d_in": D, "transcode": False, "skip_connection": True})
    x = torch.randn(40, D)
    pre = torch.relu((x - weights["b_dec"]) @ weights["encoder.weight"].T + weights["encoder.bias"])
    read = load_transcoder(tmp_path, autoencoder=True)
    torch.testing.assert_close(read.encode(x).sum(-1), pre.topk(K).values.sum(-1), rtol=1e-4, atol=1e-4)


def empty(folder: Path) -> None:
    folder.mkdir()


def alone(folder: Path, name: str, content: str) -> None:
    folder.mkdir(parents=True)
    (folder / name).write_text(content)


def several(folder: Path) -> None:
    for name in ("layers.0.mlp", "layers.1.mlp"):
        sparsify_folder(folder / name)


def sae_lens(folder: Path, **changed: Any) -> None:
    random_transcoder().save_inference_model(folder)
    config = json.loads((folder / "cfg.json").read_text())
    (folder / "cfg.json").write_text(json.dumps({**config, **changed}))


def dictionary(folder: Path, config: Any, weights: Any = None) -> None:
    folder.mkdir()
    torch.save({"encoder.weight": torch.zeros(N, D)} if weights is None else weights, folder / "ae.pt")
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))


def damaged(folder: Path) -> None:
    sparsify_folder(folder)
    (folder / "sae.safetensors").write_bytes(b"not tensors")


def not_weights(folder: Path) -> None:
    dictionary(folder, {"trainer": {"dict_class": "AutoEncoder"}})
    (folder / "ae.pt").write_bytes(pickle.dumps(Path, protocol=2))


def traced(folder: Path, change: Any = lambda folder: None, layers: int = 2) -> None:
    transcoders = {n: random_transcoder(d_in=D, d_out=D, dtype="float32") for n in range(layers)}
    hooks: dict[str, Any] = {"feature_input_hook": "mlp.hook_in", "feature_output_hook": "mlp.hook_out"}
    export_transcoder_set(transcoders, folder, model_name="tiny", **hooks)
    change(folder)


def sae_lens_without(name: str) -> Any:
    def make(folder: Path) -> None:
        sae_lens(folder)
        config = json.loads((folder / "cfg.json").read_text())
        del config[name]
        (folder / "cfg.json").write_text(json.dumps(config))

    return make


TRAINER = {"trainer": {"dict_class": "AutoEncoder"}}
RELU = {"encoder.weight": torch.zeros(N, D), "encoder.bias": torch.zeros(N), "decoder.weight": torch.zeros(D, N)}


CASES: dict[str, tuple[Any, str]] = {
    "nothing there": (lambda folder: None, "does not exist: pass the folder"),
    "an empty folder": (empty, r"holds no transcoder that is known here \(it is empty\)"),
    "several hookpoints": (
        several,
        "is not a single transcoder, and holds layers.0.mlp, layers.1.mlp: pass one",
    ),
    "several seeds": (
        lambda f: sparsify_folder(f / "layers.0.mlp" / "seed0"),
        "and holds layers.0.mlp/seed0: pass one",
    ),
    "many": (
        lambda f: [sparsify_folder(f / f"{i}") for i in range(9)],
        r"holds 0, 1, 2, 3, 4, 5, 6, 7, \.\.\.: pass one",
    ),
    "settings alone": (
        lambda f: alone(f, "cfg.json", "{}"),
        "the settings of a SAELens folder or a sparsify folder, and lacks sae_weights.safetensors or sae.safetensors",
    ),
    "circuit-tracer, settings alone": (
        lambda f: alone(f, "config.yaml", "{model_kind: transcoder_set, scan: a}"),
        "the settings of a circuit-tracer set, and lacks layer_N.safetensors",
    ),
    "dictionary_learning, interrupted": (
        lambda f: alone(f, "config.json", json.dumps(TRAINER)),
        "the settings of a dictionary_learning folder, and lacks ae.pt",
    ),
    "dictionary_learning, checkpoints": (
        lambda f: alone(f / "checkpoints", "ae_7.pt", ""),
        "is not a single transcoder, and holds checkpoints/ae_7.pt: pass one",
    ),
    "another library's model": (lambda f: alone(f, "config.json", "{}"), "holds no transcoder that is known here"),
    "sparsify without k": (lambda f: sparsify_folder(f, {"d_in": D}), "looks like a sparsify folder, and lacks k "),
    "sparsify without weights": (lambda f: sparsify_folder(f, lacks="W_dec"), "a sparsify folder, and lacks W_dec"),
    "groupmax": (lambda f: sparsify_folder(f, {"k": 3, "d_in": D, "activation": "groupmax"}), "activation: 'groupmax'"),
    "damaged": (damaged, r"sae.safetensors is damaged \(.*\): fetch it again"),
    "SAELens without an architecture": (lambda f: sae_lens(f, architecture="none"), "knows no architecture none"),
    "SAELens with other shapes": (lambda f: sae_lens(f, d_sae=99), "d_sae in cfg.json is 99, and the weights say 12"),
    "dictionary_learning without config": (lambda f: dictionary(f, None), "lacks config.json: copy it there"),
    "dictionary_learning, config of others": (lambda f: dictionary(f, {"lr": 1}), "lacks trainer"),
    "dictionary_learning, no class": (lambda f: dictionary(f, {"trainer": {}}), "lacks dict_class"),
    "dictionary_learning, keys": (
        lambda f: dictionary(f, {"trainer": {"dict_class": "AutoEncoder"}}),
        "dictionary_learning folder's AutoEncoder, and lacks encoder.bias, decoder.weight, bias",
    ),
    "SAELens without d_sae": (sae_lens_without("d_sae"), "SAELens folder's transcoder, and lacks d_sae"),
    "SAELens without dtype": (sae_lens_without("dtype"), "looks like a SAELens folder's transcoder, and lacks dtype"),
    "SAELens with an unknown dtype": (lambda f: sae_lens(f, dtype="float7"), "says dtype: 'float7'"),
    "dictionary_learning, a tensor": (lambda f: dictionary(f, TRAINER, torch.zeros(3)), "holds a Tensor, no values by"),
    "dictionary_learning, a list": (lambda f: dictionary(f, TRAINER, [1]), "holds a list, no values by name"),
    "dictionary_learning, no trainer": (
        lambda f: dictionary(f, {"trainer": None}),
        "says trainer: null, and a dictionary_learning folder needs a value there",
    ),
    "dictionary_learning, narrow bias": (
        lambda f: dictionary(f, TRAINER, {**RELU, "bias": torch.zeros(D - 1)}),
        r"bias has shape \[5\], and by all else it should have \[6\]",
    ),
    "dictionary_learning, a vector": (
        lambda f: dictionary(f, TRAINER, {**RELU, "encoder.weight": torch.zeros(N), "decoder.bias": torch.zeros(D)}),
        r"encoder.weight has shape \[20\], and a matrix is needed",
    ),
    "sparsify, k is a word": (
        lambda f: sparsify_folder(f, {"k": "x", "d_in": D, "transcode": True}),
        "k is 'x', and of",
    ),
    "sparsify, k above the features": (
        lambda f: sparsify_folder(f, {"k": N + 1, "d_in": D, "transcode": True}),
        "k is 21, and of 20 features 1 to 20 can stay",
    ),
    "a pickle": (not_weights, "is no state dict"),
    "circuit-tracer, which layer": (traced, "with the layers 0, 1: pass layer=, one of them"),
    "circuit-tracer, no config": (
        lambda f: traced(f, lambda made: (made / "config.yaml").unlink(), layers=1),
        "looks like a circuit-tracer set, and lacks config.yaml",
    ),
    "circuit-tracer, cross-layer": (
        lambda f: traced(
            f,
            lambda made: (made / "config.yaml").write_text(
                "{model_kind: cross_layer_transcoder, feature_input_hook: a, feature_output_hook: b}"
            ),
            layers=1,
        ),
        "is a cross-layer transcoder: each of its features writes to all later layers",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_wrong_folder_is_named_with_what_is_missing(case, tmp_path):
    make, message = CASES[case]
    make(tmp_path / "it")
    with pytest.raises(FormatError, match=message) as caught:
        load_transcoder(tmp_path / "it")
    assert str(tmp_path) in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_many_are_listed_with_numbers_in_order(tmp_path):
    for layer in (10, 2):
        sparsify_folder(tmp_path / "run" / f"layer_{layer}" / "width_16k" / "l0_9")
    traced(tmp_path / "run" / "set")
    dictionary(tmp_path / "run" / "trainer_0", TRAINER)
    alone(tmp_path / "run" / "trainer_0" / "checkpoints", "ae_7.pt", "")
    (tmp_path / "run" / "of_a_model.safetensors").write_bytes(b"")
    listed = "layer_2/width_16k/l0_9, layer_10/width_16k/l0_9, set, trainer_0, trainer_0/checkpoints/ae_7.pt: pass one"
    with pytest.raises(FormatError, match=f"is not a single transcoder, and holds {listed}"):
        load_transcoder(tmp_path / "run")


def test_a_layer_that_a_set_does_not_have(tmp_path):
    traced(tmp_path / "set")
    with pytest.raises(FormatError, match="no layer 7, but the layers 0, 1"):
        load_transcoder(tmp_path / "set", layer=7)


def test_a_file_of_one_layer_is_not_taken_for_another(tmp_path):
    traced(tmp_path / "set")
    assert load_transcoder(tmp_path / "set" / "layer_1.safetensors", layer=1).cfg.d_in == D
    with pytest.raises(FormatError, match=r"layer_1\.safetensors is of layer 1, and layer=0 was asked for"):
        load_transcoder(tmp_path / "set" / "layer_1.safetensors", layer=0)


def test_any_file_beside_a_transcoder_is_not_taken_for_it(tmp_path):
    sparsify_folder(tmp_path)
    assert isinstance(load_transcoder(tmp_path / "sae.safetensors"), TopKTranscoder)
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(FormatError, match=r"model\.safetensors is none of the files that are known here"):
        load_transcoder(tmp_path / "model.safetensors")


def test_of_several_seeds_each_is_of_their_hookpoint(tmp_path):
    sparsify_folder(tmp_path / "layers.3.mlp" / "seed1")
    assert load_transcoder(tmp_path / "layers.3.mlp" / "seed1").cfg.metadata.hookpoint == "layers.3.mlp"


def test_a_device_that_is_not_there_is_not_laid_to_the_files(tmp_path):
    sparsify_folder(tmp_path)
    with pytest.raises(ValueError, match=r"device abacus cannot be used here \(.*\): pass another, such as \"cpu\"$"):
        load_transcoder(tmp_path, device="abacus")
