import json
from typing import Any

import forks
import pytest
import torch
from oracles import random_transcoder
from sae_lens import SAE
from sae_lens.saes.transcoder import JumpReLUSkipTranscoder, JumpReLUTranscoder, SkipTranscoder, Transcoder
from safetensors.torch import load_file, save_file

from faithfulness_plugin import topk_to_jumprelu

OUTSIDER = """
import sys
from safetensors.torch import load_file, save_file
from sae_lens import SAE
transcoder = SAE.load_from_disk(sys.argv[1])
save_file({"y": transcoder(load_file(sys.argv[2])["x"]).detach()}, sys.argv[3])
assert not [name for name in sys.modules if name.startswith("faithfulness_plugin")]
print(type(transcoder).__module__, type(transcoder).__name__)
"""


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_export_is_saelenss_own_transcoder(make_transcoder, tmp_path, dtype):
    transcoder = make_transcoder(dtype=dtype, jacobian={"jitter": 0.2}, jacobian_coefficient=2.0)
    transcoder.save_inference_model(tmp_path)
    assert set(load_file(tmp_path / "sae_weights.safetensors")) == {"W_enc", "b_enc", "W_dec", "b_dec"}
    config = json.loads((tmp_path / "cfg.json").read_text())
    assert config["architecture"] == "transcoder"
    details = config["metadata"]["training_architecture_details"]  # how it was made travels along
    assert details["jacobian_coefficient"] == 2.0
    assert details["jacobian"]["jitter"] == 0.2
    loaded = SAE.load_from_disk(tmp_path)
    assert type(loaded) is Transcoder
    x = torch.randn(20, 5, dtype=transcoder.dtype)
    torch.testing.assert_close(loaded(x), transcoder(x), rtol=0, atol=1e-6)
    torch.testing.assert_close(loaded.encode(x), transcoder.encode(x), rtol=0, atol=1e-6)


EXPORTS = {
    ("standard", False): Transcoder,
    ("standard", True): SkipTranscoder,
    ("batch_topk", False): JumpReLUTranscoder,
    ("batch_topk", True): JumpReLUSkipTranscoder,
    ("jumprelu", False): JumpReLUTranscoder,
    ("jumprelu", True): JumpReLUSkipTranscoder,
}


@pytest.mark.parametrize(("architecture", "skip"), EXPORTS)
def test_a_process_without_this_plugin_loads_every_stock_architecture(make_transcoder, tmp_path, architecture, skip):
    transcoder = make_transcoder(architecture, dtype="float32", skip=skip).eval()
    _loads_elsewhere(transcoder, tmp_path, EXPORTS[architecture, skip])


def test_a_process_without_this_plugin_loads_it_with_equal_outputs(make_transcoder, tmp_path):
    _loads_elsewhere(make_transcoder(dtype="float32"), tmp_path, Transcoder)


def _loads_elsewhere(transcoder, tmp_path, expected: type) -> None:
    transcoder.save_inference_model(tmp_path / "export")
    x = torch.randn(20, 5)
    save_file({"x": x}, tmp_path / "x.safetensors")
    arguments = [tmp_path / "export", tmp_path / "x.safetensors", tmp_path / "y.safetensors"]
    done = forks.run(OUTSIDER, *arguments)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == f"sae_lens.saes.transcoder {expected.__name__}"
    y = load_file(tmp_path / "y.safetensors")["y"]
    torch.testing.assert_close(y, transcoder(x), rtol=0, atol=1e-6)


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("rescale", [False, True])
@pytest.mark.parametrize("finished", [False, True])
def test_topk_becomes_a_jumprelu_with_as_many_active_features(
    as_installed, make_transcoder, tmp_path, skip, rescale, finished
):
    transcoder: Any = make_transcoder("topk", skip=skip, rescale_acts_by_decoder_norm=rescale)
    if finished:
        transcoder.save_inference_model(tmp_path / "topk")
        transcoder = SAE.load_from_disk(tmp_path / "topk")
    x = torch.randn(500, 5, dtype=torch.float64)
    converted = topk_to_jumprelu(transcoder, x)
    assert type(converted) is (JumpReLUSkipTranscoder if skip else JumpReLUTranscoder)
    before, after = transcoder.encode(x), converted.encode(x)
    assert (after > 0).sum() == (before > 0).sum()
    same_gates = ((before > 0) == (after > 0)).all(-1)
    assert 0 < same_gates.sum() < 500  # an approximation; where the gates agree, it is exact
    torch.testing.assert_close(converted(x)[same_gates], transcoder(x)[same_gates])
    converted.save_model(tmp_path / "converted")
    torch.testing.assert_close(SAE.load_from_disk(tmp_path / "converted")(x), converted(x))


def test_where_every_feature_is_active_every_feature_stays(make_transcoder):
    transcoder, x = make_transcoder("topk", k=12), torch.randn(40, 5, dtype=torch.float64)
    with torch.no_grad():
        transcoder.b_enc.fill_(100)
    torch.testing.assert_close(topk_to_jumprelu(transcoder, x)(x), transcoder(x))


def test_what_exports_itself_is_not_converted(make_transcoder):
    with pytest.raises(ValueError, match="save_inference_model exports it as a JumpReLU"):
        topk_to_jumprelu(make_transcoder("batch_topk"), torch.randn(4, 5).double())


def test_rows_on_which_nothing_fires_give_no_threshold(make_transcoder):
    transcoder = make_transcoder("topk")
    with torch.no_grad():
        transcoder.b_enc.fill_(-100)
    with pytest.raises(ValueError, match="no feature is active on these 4 rows"):
        topk_to_jumprelu(transcoder, torch.randn(4, 5).double())


def test_weights_that_are_not_finite_are_not_converted():
    transcoder = random_transcoder("topk")
    with torch.no_grad():
        transcoder.W_enc[0, 0] = torch.inf
    with pytest.raises(ValueError, match="the transcoder: W_enc has 1 of 60 values that are NaN or infinite"):
        topk_to_jumprelu(transcoder, torch.randn(50, 5, dtype=torch.float64))  # pyright: ignore
