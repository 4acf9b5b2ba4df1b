import inspected
import numpy as np
import pandas as pd
import pytest

from faithfulness_plugin.inspection.export import NUMBERS, write_records

pytestmark = pytest.mark.usefixtures("as_installed")


@pytest.mark.parametrize("name", ["records.parquet", "records.jsonl"])
def test_every_feature_is_a_row_with_numbers_rows_and_directions(tmp_path, name):
    (of,) = inspected.toy()
    write_records([of], tmp_path / name)
    table = pd.read_parquet(tmp_path / name) if name.endswith("parquet") else pd.read_json(tmp_path / name, lines=True)
    assert table["feature"].tolist() == list(range(40))
    for number in NUMBERS:
        np.testing.assert_allclose(table[number], getattr(of.records, number), atol=1e-7)
    np.testing.assert_allclose(table["datapoint_score"], of.records.datapoint.score, atol=1e-7)
    assert table["flagged"].to_numpy().nonzero()[0].tolist() == [35]
    assert table["nearest_circuit"][35] == "datapoint p"
    assert list(table["top_rows"][35]) == [r for r in of.records.top_rows[35] if r >= 0]
    assert of.records.faithfulness is not None
    np.testing.assert_allclose(table["faithfulness"].astype(float), of.records.faithfulness.faithfulness, atol=1e-7)
    np.testing.assert_allclose(table["unbacked"], of.records.unbacked, atol=1e-7)
    assert table["unbacked"].argmax() == 35
    np.testing.assert_allclose(table["reads"][35], of.transcoder.W_enc[:, 35].detach().numpy(), atol=1e-6)
    np.testing.assert_allclose(np.stack(table["writes"].tolist()), of.transcoder.W_dec.detach().numpy(), atol=1e-6)
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_of_text_contexts_are_text(tmp_path):
    of = inspected.text()
    write_records([of], tmp_path / "records.parquet", token_text=inspected.token_text, directions=False)
    table = pd.read_parquet(tmp_path / "records.parquet")
    assert "reads" not in table
    origins, row = of.sample.origins, int(of.records.top_rows[3, 0])
    assert origins is not None
    token = int(origins.tokens[origins.prompt[row], origins.position[row]])
    assert table["top_token"][3] == inspected.token_text(token)
    assert inspected.token_text(token) in table["top_contexts"][3][0]

    assert of.tokens is not None
    assert of.tokens.raised is not None
    assert of.details.places is not None
    assert list(table["tokens_raised"][3]) == [inspected.token_text(t) for t in of.tokens.raised.tokens[3]]
    np.testing.assert_allclose(table["tokens_raised_by"][3], of.tokens.raised.values[3])
    fired_on = [inspected.token_text(t) for t in of.details.places.tokens[3] if t >= 0]
    assert list(table["tokens_fired_on"][3]) == fired_on
    np.testing.assert_allclose(np.stack(table["rate_by_position"].tolist()), of.details.places.by_position)
    assert len(table["band_contexts"][3]) == 3


def test_lines_of_json_hold_no_nan(tmp_path):
    of = inspected.text()
    write_records([of], tmp_path / "records.jsonl", token_text=inspected.token_text)
    text = (tmp_path / "records.jsonl").read_text(encoding="utf-8")
    assert "NaN" not in text
    assert len(text.splitlines()) == 60


def test_other_kinds_of_files_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"\.parquet or \.jsonl"):
        write_records([inspected.text()], tmp_path / "records.csv")
