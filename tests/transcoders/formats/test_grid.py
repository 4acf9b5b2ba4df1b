"""Every format through every kind of fault: each ends in one line that names the culprit.

The formats are those of `PUBLISHED` in tests/published_files.py: a new format adds one function and one line there, and
nothing here. What a fault is, and what it should say, stands in the functions below.
"""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import fails
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from published_files import PUBLISHED, Published
from typer.testing import CliRunner

from faithfulness_plugin import load_transcoder
from faithfulness_plugin.cli.app import app
from faithfulness_plugin.transcoders.formats.errors import FormatError

pytestmark = pytest.mark.usefixtures("as_installed")


@pytest.fixture(params=PUBLISHED)
def it(request) -> Published:
    torch.manual_seed(0)
    return PUBLISHED[request.param]()


def refusal(it: Published, folder: Path, **options: Any) -> str:
    """Return load_transcoder's message: one line, with the path."""
    folder.mkdir(parents=True, exist_ok=True)
    return refused(it.write(folder, it), **{**it.options, **options})


def refused(path: Path, **options: Any) -> str:
    with pytest.raises(FormatError) as caught:
        load_transcoder(path, **options)
    said = str(caught.value)
    assert len(said.splitlines()) == 1
    assert str(path.parent) in said
    return said


def test_the_function_is_what_the_formula_says(it, tmp_path):
    x = torch.randn(200, it.d_in, dtype=torch.float64)
    read = load_transcoder(it.write(tmp_path, it), dtype=torch.float64, **it.options)
    wanted = it.formula({name: tensor.double() for name, tensor in it.tensors.items()}, x)
    error = (read(x) - wanted).abs().max() / wanted.abs().max()
    assert error < 1e-6
    assert read.W_enc.shape[0] == x.shape[1]
    assert read.cfg.metadata.source


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_measured_in_float32_unless_asked_otherwise(it, dtype, tmp_path):
    if dtype is torch.bfloat16 and it.weights.endswith(".npz"):
        pytest.skip("numpy has no bfloat16")
    half = it
    for name, tensor in it.tensors.items():
        half = half.with_tensor(name, tensor.to(dtype) if tensor.is_floating_point() else tensor)
    path = half.write(tmp_path, half)
    read = load_transcoder(path, **it.options)
    assert {weight.dtype for weight in read.parameters()} == {torch.float32}
    x = torch.randn(100, read.cfg.d_in, dtype=torch.float64)
    wanted = it.formula({name: tensor.double() for name, tensor in half.tensors.items()}, x)
    # a row at a gate may fall on either side in float32
    error = (read(x.float()) - wanted).abs().amax(-1) / wanted.abs().max()
    assert error.quantile(0.95) < 1e-5
    assert {weight.dtype for weight in load_transcoder(path, dtype=None, **it.options).parameters()} == {dtype}


def test_an_unknown_tensor(it, tmp_path):
    said = refusal(it.with_tensor("surprise", torch.zeros(3)), tmp_path)
    assert "the tensor surprise, which" in said
    assert it.weights in said


def test_an_unknown_setting(it, tmp_path):
    if it.config is None:
        pytest.skip("this format has no settings")
    for i, section in enumerate(it.sections):
        said = refusal(it.with_setting(section, "surprise", 1), tmp_path / str(i))
        assert "the setting surprise, which" in said
        assert Path(it.config).name in said


def test_any_other_tensor_or_setting(it, tmp_path):
    """Whatever it is called."""
    names = st.text(st.characters(codec="ascii", categories=("L", "N", "P")), min_size=1, max_size=12)

    @settings(max_examples=8, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
    @given(names, st.sampled_from(it.sections))
    def refuses(name: str, section: tuple[str, ...]) -> None:
        name = f"{name}!"  # no publisher's
        assert name in refusal(it.with_tensor(name, torch.zeros(2)), tmp_path)
        if it.config is not None:
            assert name in refusal(it.with_setting(section, name, 0), tmp_path)

    refuses()


def test_a_missing_tensor(it, tmp_path):
    for i, name in enumerate(it.tensors):
        without = it.with_tensor(name, None)
        try:
            said = refusal(without, tmp_path / str(i))
        except pytest.fail.Exception:  # a format may do without: then the function is that of the formula without
            x = torch.randn(50, it.d_in, dtype=torch.float64)
            read = load_transcoder(tmp_path / str(i), dtype=torch.float64, **it.options)
            assert name in OPTIONAL
            zero = it.with_tensor(name, torch.zeros_like(it.tensors[name]))
            wanted = it.formula({n: tensor.double() for n, tensor in zero.tensors.items()}, x)
            if name in AS_ZERO:
                torch.testing.assert_close(read(x), wanted, rtol=1e-6, atol=1e-6)
        else:
            assert name.rpartition(".")[2] in said  # what AutoEncoderNew lacks may be AutoEncoder's "bias"


AS_ZERO = {"W_skip", "activation_function.threshold", "post_enc", "post_encs.0"}
OPTIONAL = AS_ZERO | {"k", "threshold"}
"""Tensors that some format does without: as if it were zero, or as another function."""


def test_a_transposed_tensor(it, tmp_path):
    matrices = {name: t for name, t in it.tensors.items() if t.ndim == 2 and t.shape[0] != t.shape[1]}
    assert matrices
    for i, (name, tensor) in enumerate(matrices.items()):
        said = refusal(it.with_tensor(name, tensor.T.contiguous()), tmp_path / str(i))
        assert f"{name} has shape {list(tensor.T.shape)}" in said
        assert "it is transposed" in said


def test_a_wrong_width(it, tmp_path):
    """One more, along every dimension of every tensor."""
    for name, tensor in it.tensors.items():
        for axis in range(tensor.ndim):
            wider = torch.cat([tensor, tensor.narrow(axis, 0, 1)], axis)
            said = refusal(it.with_tensor(name, wider), tmp_path / f"{name} {axis}")
            assert f"{name} has shape {list(wider.shape)}" in said


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_a_value_that_is_not_finite(it, value, tmp_path):
    for i, (name, tensor) in enumerate(it.tensors.items()):
        if not tensor.is_floating_point():
            continue
        bad = tensor.clone()
        bad.view(-1)[-1] = value
        try:
            said = refusal(it.with_tensor(name, bad), tmp_path / str(i))
        except pytest.fail.Exception:
            assert name == "threshold"  # dictionary_learning's TopK has one that is not read
            assert tensor.ndim == 0
        else:
            assert f"{name} has 1 of {tensor.numel()} values that are NaN or infinite" in said


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.bool, torch.complex64])
def test_a_type_that_holds_no_weights(it, dtype, tmp_path):
    """Quantised weights would be read as their codes, complex ones as their real parts."""
    for i, (name, tensor) in enumerate(it.tensors.items()):
        if not tensor.is_floating_point() or (name == "threshold" and not tensor.ndim and "k" in it.tensors):
            continue  # a number that is read is tested with the sets of groups and k
        said = refusal(it.with_tensor(name, (5 * tensor).to(dtype)), tmp_path / str(i))
        assert f"{name} is of type {str(dtype).removeprefix('torch.')}" in said


def test_k_is_a_whole_number(it, tmp_path):
    if "k" not in it.tensors or ("threshold" in it.tensors and it.tensors["threshold"] > 0):
        pytest.skip("k is no tensor, or one that is not read (a BatchTopK dictionary has a threshold)")
    for k in (torch.tensor(2.5), torch.tensor(True)):
        assert f"k is {k.item()} of type" in refusal(it.with_tensor("k", k), tmp_path / str(k))


def test_a_k_that_keeps_no_number_of_features(it, tmp_path):
    """Above all null, which is no k, must not make a ReLU of a TopK."""
    name = "top_k" if it.settings.get("act_fn") == "topk" else "k"
    if name not in it.settings:
        pytest.skip("k is no setting")
    for k in (None, 0, -1, 2.0, "2", True, 10**9):
        said = refusal(it.with_setting((), name, k), tmp_path / str(k))
        assert re.search(rf"\bk is {re.escape(repr(k))}, and of 20|says {name}: null|add k", said)


def test_a_layer_below_0(it, tmp_path):
    with pytest.raises(ValueError, match="layer is -1: pass the number of a block"):
        load_transcoder(it.write(tmp_path, it), **{**it.options, "layer": -1})


def test_a_number_of_another_rank(it, tmp_path):
    for i, (name, tensor) in enumerate(it.tensors.items()):
        if tensor.ndim:
            said = refusal(it.with_tensor(name, tensor.reshape(1, *tensor.shape)), tmp_path / str(i))
            assert f"{name} has shape {[1, *tensor.shape]}" in said


@pytest.mark.parametrize("content", [b"", b"\x93no such thing {"], ids=["empty", "damaged"])
def test_a_file_without_its_content(it, tmp_path, content):
    for file in {it.weights, it.config or it.weights}:
        folder = tmp_path / Path(file).suffix
        folder.mkdir()
        path = it.write(folder, it)
        (folder / file).write_bytes(content)
        assert Path(file).name in refused(path, **it.options)


def test_no_file(it, tmp_path):
    path = it.write(tmp_path, it)
    (tmp_path / it.weights).unlink()
    assert "surprise" in refused(tmp_path / "surprise")
    (tmp_path / it.weights).mkdir()
    assert str(tmp_path) in refused(path, **it.options)


@pytest.mark.exact("one file is read twice")
def test_a_file_of_weights_in_a_folder_called_checkpoints(it, tmp_path):
    """Its settings may be there, too."""
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    whole = load_transcoder(it.write(folder, it), **it.options)
    by_file = load_transcoder(folder / it.weights, **it.options)
    assert torch.equal(by_file.W_dec, whole.W_dec)


def test_the_commands_end_with_status_2_and_that_line(it, tmp_path):
    name = next(iter(it.tensors))
    faults = {
        "surprise": it.with_tensor("surprise", torch.zeros(2)),
        name.rpartition(".")[2]: it.with_tensor(name, None),
    }
    for i, (message, faulty) in enumerate(faults.items()):
        folder = tmp_path / str(i)
        folder.mkdir()
        path = str(faulty.write(folder, faulty))
        fails(
            CliRunner().invoke(app, ["inspect", path, "--layer", "abs", "--out", str(folder / "page.html")]), 2, message
        )
        assert not (folder / "page.html").exists()
