import re
from pathlib import Path
from typing import Any

import pytest
from oracles import exact_abs_transcoder, plant_datapoint_feature

from faithfulness_plugin import AbsInputs

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "inspection.md").read_text(encoding="utf-8")
NOTEBOOK, SHOWN, FIGURES = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)


def test_the_notebook_runs_as_it_stands(tmp_path, monkeypatch, capsys):
    transcoder = exact_abs_transcoder(16, 40)
    plant_datapoint_feature(transcoder, AbsInputs(16).point.double(), 35)
    transcoder.float()
    transcoder.cfg.dtype = "float32"
    transcoder.save_inference_model(tmp_path / "out" / "transcoder")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(NOTEBOOK, names)
    table, faithfulness = capsys.readouterr().out.strip().rsplit("\n", 1)
    assert table.splitlines()[1].split()[0] == "35"
    assert float(faithfulness) == pytest.approx(0.064, abs=0.01)
    exec(SHOWN, names)
    assert (tmp_path / "page.html").read_text("utf-8") == names["found"].page().html
    exec(FIGURES, names)
    assert {path.name for path in tmp_path.glob("*.png")} == {"jacobians.png", "features.png", "plane.png"}
