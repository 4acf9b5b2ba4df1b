"""A new format is one class and one entry in the registry: it is then recognised, read and checked."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from faithfulness_plugin import load_transcoder
from faithfulness_plugin.transcoders.formats import registry
from faithfulness_plugin.transcoders.formats.errors import FormatError
from faithfulness_plugin.transcoders.formats.format import Format, Function
from faithfulness_plugin.transcoders.formats.schema import Settings, Tensors

D, N = 4, 9


class Plain(Format):
    """t(x) = D ReLU(E x + b) + c."""

    title = "a plain folder"
    source = "plain"
    writes = "plain.json and plain.safetensors"
    configs = ("plain.json",)
    weights = ("plain.safetensors",)
    settings = Settings(needs="hook", harmless="lr seed", sizes={"d_sae": "width"})

    def function(self, config, found, files) -> Function:
        return Function(
            Tensors(
                {"E": "d_sae d", "b": "d_sae", "D": "d d_sae", "c": "d"},
                names={"W_enc": "E", "b_enc": "b", "W_dec": "D", "b_dec": "c"},
            ),
            metadata={"hook_name": config["hook"]},
        )


@pytest.fixture
def written(tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "FORMATS", (*registry.FORMATS, Plain()))
    tensors = {"E": torch.randn(N, D), "b": torch.randn(N), "D": torch.randn(D, N), "c": torch.randn(D)}

    def write(settings, **changed) -> Path:
        (folder := tmp_path / "it").mkdir()
        (folder / "plain.json").write_text(json.dumps({"hook": "blocks.2.mlp.hook_in", "width": N, **settings}))
        save_file({**tensors, **changed}, folder / "plain.safetensors")
        return folder

    return tensors, write


def test_a_new_format_is_read_as_the_function_that_it_declares(written):
    w, write = written
    read, x = load_transcoder(write({"lr": 1e-3}), layer=2), torch.randn(20, D)
    torch.testing.assert_close(read(x), torch.relu(x @ w["E"].T + w["b"]) @ w["D"].T + w["c"])
    assert (read.cfg.metadata.source, read.cfg.metadata.hook_name) == ("plain", "blocks.2.mlp.hook_in")


@pytest.mark.parametrize(
    ("settings", "changed", "message"),
    [
        ({"scale": 2}, {}, "the setting scale, which a plain folder is not known to have"),
        ({"hook": None}, {}, "says hook: null, and a plain folder needs a value there"),
        ({"width": N + 1}, {}, "width in plain.json is 10, and the weights say 9"),
        ({"width": 0}, {}, "width in plain.json is 0, and a whole number above 0 is needed"),
        ({}, {"W_skip": torch.zeros(D, D)}, "the tensor W_skip, which a plain folder is not known to have"),
        ({}, {"E": torch.zeros(D, N)}, r"E has shape \[4, 9\].*it is transposed"),
        ({}, {"c": torch.full((D,), torch.nan)}, "c has 4 of 4 values that are NaN or infinite"),
    ],
)
def test_the_checks_of_all_formats_are_those_of_a_new_one(settings, changed, message, written):
    _, write = written
    with pytest.raises(FormatError, match=message):
        load_transcoder(write(settings, **changed))


def test_a_new_format_is_listed_and_named_where_its_weights_are_missing(written):
    _, write = written
    folder = write({})
    with pytest.raises(FormatError, match="is not a single transcoder, and holds it: pass one"):
        load_transcoder(folder.parent)
    (folder / "plain.safetensors").unlink()
    with pytest.raises(FormatError, match=r"has the settings of a plain folder, and lacks plain\.safetensors"):
        load_transcoder(folder)
