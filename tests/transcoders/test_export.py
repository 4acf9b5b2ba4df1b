import json
import subprocess
import sys

import pytest
import torch
from sae_lens import SAE
from sae_lens.saes.transcoder import Transcoder
from safetensors.torch import load_file, save_file

OUTSIDER = """
import sys, warnings
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


def test_a_process_without_this_plugin_loads_it_with_equal_outputs(make_transcoder, tmp_path):
    transcoder = make_transcoder(dtype="float32")
    transcoder.save_inference_model(tmp_path / "export")
    x = torch.randn(20, 5)
    save_file({"x": x}, tmp_path / "x.safetensors")
    arguments = [tmp_path / "export", tmp_path / "x.safetensors", tmp_path / "y.safetensors"]
    done = subprocess.run(
        [sys.executable, "-c", OUTSIDER, *map(str, arguments)], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "sae_lens.saes.transcoder Transcoder"
    y = load_file(tmp_path / "y.safetensors")["y"]
    torch.testing.assert_close(y, transcoder(x), rtol=0, atol=1e-6)
