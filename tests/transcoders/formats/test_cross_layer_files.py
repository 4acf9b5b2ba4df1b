from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from cross_layer import LAYERS, D, N, cross_layer, rows
from safetensors.torch import load_file, save_file

from faithfulness_plugin import load_cross_layer_transcoder, transcoder_jvp
from faithfulness_plugin.errors import FormatError, UsageError
from faithfulness_plugin.transcoders.formats import cross_layer_files

EXPORTED = ["standard", "jumprelu", "batch_topk"]


def exported(architecture: str = "standard", **options: Any) -> Any:
    clt = cross_layer(architecture, **options).eval()
    for part in clt.parts:
        if architecture == "batch_topk":
            part.topk_threshold.fill_(0.3)
    return clt


@pytest.fixture
def written(tmp_path) -> Path:
    exported("jumprelu").save_inference_model(tmp_path / "clt")
    return tmp_path / "clt"


@pytest.mark.parametrize("options", [{}, {"bandwidth": 2}, {"tied": True}], ids=str)
@pytest.mark.parametrize("architecture", EXPORTED)
def test_what_is_written_comes_back_as_the_function_that_it_was(architecture, options, tmp_path):
    clt, x = exported(architecture, **options), rows()
    clt.cfg.metadata.hook_name = "hook_resid_mid"
    weights, config = clt.save_inference_model(tmp_path / "clt")
    assert weights.exists()
    assert yaml.safe_load(config.read_text()) == {
        "model_kind": "cross_layer_transcoder",
        "feature_input_hook": "hook_resid_mid",
    }
    names = [f"W_{kind}_{layer}.safetensors" for kind in ("dec", "enc") for layer in range(LAYERS)]
    assert sorted(path.name for path in (tmp_path / "clt").iterdir()) == [*names, "config.yaml"]
    assert load_file(tmp_path / "clt" / "W_dec_1.safetensors")["W_dec_1"].shape == (N, LAYERS - 1, D)
    back = load_cross_layer_transcoder(tmp_path / "clt")
    torch.testing.assert_close(back(x), clt(x))
    torch.testing.assert_close(back.encode(x), clt.encode(x))
    v = torch.randn_like(x)
    torch.testing.assert_close(transcoder_jvp(back, x, v)[1], transcoder_jvp(clt, x, v)[1])
    assert back.metadata["hook_name"] == "hook_resid_mid"

    assert load_cross_layer_transcoder(tmp_path / "clt", dtype=torch.float32)(x.float()).dtype == torch.float32


def test_only_the_decoders_that_are_asked_for_are_read(written, monkeypatch):
    read: list[str] = []
    opened = cross_layer_files._opened

    class Watched:
        def __init__(self, path: Path) -> None:
            self.file = opened(path)

        def __enter__(self) -> Any:
            self.inner = self.file.__enter__()
            return self

        def __exit__(self, *args: Any) -> None:
            self.file.__exit__(*args)

        def __getattr__(self, name: str) -> Any:
            return getattr(self.inner, name)

        def get_tensor(self, name: str) -> torch.Tensor:
            read.append(name)
            return self.inner.get_tensor(name)

    monkeypatch.setattr(cross_layer_files, "_opened", Watched)
    clt, x = load_cross_layer_transcoder(written), rows()
    clt.encode(x)
    assert not [name for name in read if name.startswith("W_dec")]
    clt.parts[1].W_dec  # noqa: B018
    assert [name for name in read if name.startswith("W_dec")] == ["W_dec_1"]
    clt(x)
    clt(x)
    assert sorted(name for name in read if name.startswith("W_dec")) == ["W_dec_0", "W_dec_1", "W_dec_2"]


def test_a_decoder_stays_in_its_file(written):
    """Memory that is mapped shows what is written to the file later."""
    clt = load_cross_layer_transcoder(written)
    decoder: Any = clt.parts[0].W_dec
    before = decoder[0, 0].item()
    with open(written / "W_dec_0.safetensors", "r+b") as file:
        content = file.read()
        start = 8 + int.from_bytes(content[:8], "little")
        file.seek(start)
        file.write(torch.tensor([before + 1], dtype=torch.float64).numpy().tobytes())
    assert decoder[0, 0].item() == before + 1


def changed(folder: Path, name: str, **tensors: torch.Tensor) -> None:
    path = folder / f"{name}.safetensors"
    kept = {**load_file(path), **tensors}
    save_file({key: tensor.clone() for key, tensor in kept.items() if tensor.numel()}, path)


NONE = torch.zeros(0)
FAULTS: dict[str, tuple[Any, str]] = {
    "no decoder": (
        lambda f: (f / "W_dec_1.safetensors").unlink(),
        r"of 3 layers, and lacks W_dec_1\.safetensors: copy",
    ),
    "no encoder": (
        lambda f: (f / "W_enc_2.safetensors").unlink(),
        r"of 3 layers, and lacks W_enc_2\.safetensors: copy",
    ),
    "another width": (
        lambda f: changed(f, "W_enc_1", W_enc_1=torch.zeros(N, 5), b_dec_1=torch.zeros(5)),
        r"W_enc_1 is \[10, 5\], and that of layer 0 \[10, 4\]: layers of a cross-layer transcoder have one width",
    ),
    "decoders missing": (
        lambda f: changed(f, "W_dec_0", W_dec_0=torch.zeros(N, 2, D)),
        r"W_dec_0 is \[10, 2, 4\], and \[10, 3, 4\] is needed: features, layers from 0 on, width",
    ),
    "no bias": (lambda f: changed(f, "W_enc_0", b_dec_0=NONE), "lacks b_dec_0"),
    "skip": (
        lambda f: changed(f, "W_enc_0", W_skip_0=torch.zeros(D, D)),
        "has the tensor W_skip_0, which a cross-layer",
    ),
    "below 0": (lambda f: changed(f, "W_enc_0", threshold_0=-torch.ones(N)), "has thresholds below 0"),
    "some thresholds": (lambda f: changed(f, "W_enc_0", threshold_0=NONE), "some layers have thresholds and some"),
    "NaN": (lambda f: changed(f, "W_enc_0", b_enc_0=torch.full((N,), torch.nan)), "b_enc_0 has 10 of 10 values"),
    "torn": (lambda f: (f / "W_dec_0.safetensors").write_bytes(b"torn"), r"W_dec_0\.safetensors is damaged"),
    "a set": (
        lambda f: (f / "config.yaml").write_text("model_kind: transcoder_set"),
        "says model_kind: 'transcoder_set'",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_folders_that_are_not_whole_are_refused_in_a_line(fault, written):
    make, message = FAULTS[fault]
    make(written)
    with pytest.raises(FormatError, match=message) as caught:
        load_cross_layer_transcoder(written)
    assert len(str(caught.value).splitlines()) == 1


def test_a_decoders_values_are_checked_when_it_is_read(written):
    changed(written, "W_dec_2", W_dec_2=torch.full((N, 1, D), torch.inf))
    clt = load_cross_layer_transcoder(written)
    with pytest.raises(FormatError, match="W_dec_2 has 40 of 40 values that are NaN or infinite"):
        clt(rows())


def test_what_cannot_be_written(tmp_path, written):
    with pytest.raises(FormatError, match="holds no cross-layer transcoder"):
        load_cross_layer_transcoder(tmp_path)
    with pytest.raises(UsageError, match="these are TopK features, and circuit-tracer's files know ReLU and"):
        exported("topk").save_inference_model(tmp_path / "topk")
    with pytest.raises(UsageError, match="layers read 4 and write 3, and circuit-tracer's files have one width"):
        cross_layer(each={"d_out": 3}).save_inference_model(tmp_path / "narrow")
    exported().save_inference_model(written)  # one that is there is replaced
    assert load_cross_layer_transcoder(written).parts[0].threshold is None
    (written / "thesis.tex").write_text("")
    with pytest.raises(UsageError, match="is not empty: choose another folder"):
        exported().save_inference_model(written)
    assert (written / "thesis.tex").exists()
