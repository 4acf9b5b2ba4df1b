import re
import sys
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard
from oracles import ARCHITECTURES
from sae_lens import SAE

from faithfulness_plugin.language_model.model_card import METRICS, write_card

EVALUATION: dict[str, Any] = {
    "name": "t",
    "step": 10,
    "tokens": 12_345,
    **dict.fromkeys([*METRICS, "ce_clean", "ce_zero"], 0.123456),
}


def exported(make_transcoder: Any, folder: Path, architecture: str = "standard", **fields: Any) -> Any:
    transcoder = make_transcoder(architecture, **fields)
    metadata = transcoder.cfg.metadata
    metadata.hook_name, metadata.hook_name_out, metadata.model_name = "blocks.0.in", "blocks.0.out", "tiny"
    transcoder.save_inference_model(folder)
    return transcoder


def row(text: str, name: str) -> str:
    (value,) = re.findall(rf"^\| {re.escape(name)} \| (.*) \|$", text, flags=re.MULTILINE)
    return value


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("skip", [False, True])
def test_its_code_loads_the_transcoder(as_installed, make_transcoder, tmp_path, architecture, skip):
    transcoder = exported(make_transcoder, tmp_path, architecture, skip=skip)
    card = ModelCard.load(write_card(tmp_path, transcoder, EVALUATION))
    (code,) = re.findall(r"```python\n(.*?)```", card.text, flags=re.DOTALL)
    names: dict[str, Any] = {}
    exec(code.replace("FOLDER", str(tmp_path)), names)
    assert type(names["transcoder"]) is type(SAE.load_from_disk(tmp_path))
    assert row(card.text, "Architecture") == f"{names['transcoder'].cfg.architecture()}, 5 -> 12 -> 4"
    assert ("attach(model, transcoder)" in card.text) == skip
    assert ("import faithfulness_plugin" in code) == names["transcoder"].cfg.architecture().startswith("faithful_")


def test_what_it_replaces_and_how_it_was_trained(make_transcoder, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/usr/bin/train.py", "--name", "two words"])
    fields = {"jacobian_coefficient": 0.5, "jacobian": {"probe": "difference"}}
    card = ModelCard.load(write_card(tmp_path, exported(make_transcoder, tmp_path, **fields), EVALUATION))
    assert card.data.to_dict()["library_name"] == "saelens"
    assert "transcoder" in card.data.to_dict()["tags"]
    assert row(card.text, "Model") == "tiny"
    assert row(card.text, "Reads") == "`blocks.0.in`"
    assert row(card.text, "Writes") == "`blocks.0.out`"
    assert "difference probes" in row(card.text, "Jacobian")
    assert row(card.text, "Coefficient: jacobian") == "0.5"
    assert row(card.text, "Command") == "`train.py --name 'two words'`"
    assert row(card.text, "Text") == "given by the script"


def test_a_jacobian_that_was_not_matched(make_transcoder, tmp_path):
    text = write_card(tmp_path, exported(make_transcoder, tmp_path), EVALUATION).read_text()
    assert row(text, "Jacobian") == "not matched"


def test_the_evaluation(make_transcoder, tmp_path):
    evaluation = {**EVALUATION, "fvu": 0.25, "l0": 1234.5678, "ce_recovered": None}
    text = write_card(tmp_path, exported(make_transcoder, tmp_path), evaluation).read_text()
    assert "after 12,345 tokens" in text
    assert row(text, METRICS["fvu"]) == "0.25"
    assert row(text, METRICS["l0"]) == "1235"
    assert row(text, METRICS["kl"]) == "0.1235"
    assert METRICS["ce_recovered"] not in text
    assert "CE recovered is undefined: zeros in the layer's place do as well as the layer" in text


def test_the_positions_that_it_was_trained_on(make_transcoder, tmp_path):
    transcoder = exported(make_transcoder, tmp_path)
    assert "| Positions |" not in write_card(tmp_path, transcoder, EVALUATION).read_text()
    transcoder.cfg.metadata.seqpos_slice = (3, None)
    text = write_card(tmp_path, transcoder, EVALUATION).read_text()
    assert row(text, "Positions") == "3 to the end; the others are left to the layer"


def test_without_an_evaluation(make_transcoder, tmp_path):
    text = write_card(tmp_path, exported(make_transcoder, tmp_path), None).read_text()
    assert "held-out" not in text
    assert "```python" in text
