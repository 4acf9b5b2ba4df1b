import json
from pathlib import Path
from typing import Any

import inspected
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from faithfulness_plugin.inspection.export import NUMBERS, write_records
from faithfulness_plugin.inspection.nested_columns import NESTED, list_type

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


def read(path: Path) -> list[dict[str, Any]]:
    """All records of a file, and None where it has no value."""
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return pq.read_table(path).to_pylist()


@pytest.mark.parametrize("name", ["records.parquet", "records.jsonl"])
def test_partners_and_interventions_are_columns_of_lists(tmp_path, name):
    first, *others = inspected.a_set()
    each = [inspected.intervened(first), *others]
    write_records(each, tmp_path / name, token_text=inspected.token_text, directions=False)
    records = read(tmp_path / name)
    by_place = {(record["transcoder"], record["feature"]): record for record in records}
    assert len(by_place) == len(records) == 180
    edges = each[1].edges
    assert edges is not None
    assert edges.interference is not None
    found = by_place[each[1].name, 8]
    for side, together in (("up", edges.up_together), ("down", edges.down_together)):
        partners, listed = getattr(edges, side), found[f"partners_{side}stream"]
        assert len(listed) == (partners.features[8] >= 0).sum() > 0
        for k, partner in enumerate(listed):
            assert partner["transcoder"] == each[partners.places[8, k]].name
            assert partner["feature"] == partners.features[8, k]
            numbers = [partner[key] for key in ("strength", "direct", "by_skips", "fires_together")]
            expected = [of[8, k] for of in (partners.strength, partners.direct, partners.skipped, together)]
            np.testing.assert_allclose(numbers, expected)
    assert found["read_from_partners"] == pytest.approx(edges.interference.partners[8])
    assert by_place[each[1].name, 7]["interference"] is None or name.endswith("parquet")
    assert by_place[each[0].name, 8]["partners_upstream"] == []
    assert found["interventions"] is None
    assert by_place[each[0].name, 11]["interventions"] == []  # it was to be changed, and never fires
    removed, doubled = by_place[each[0].name, 9]["interventions"]
    assert (removed["do"], doubled["do"], removed["prompts"], removed["changed"]) == ("ablate", "double", 8, 12)
    moved = each[0].interventions[1].next_token["ablate"]
    assert [token["token"] for token in removed["tokens"]] == [inspected.token_text(t) for t in moved.tokens]
    np.testing.assert_allclose([token["moves"] for token in removed["tokens"]], moved.moves)
    assert [stage["error"] for stage in removed["stages"]] == [0, 0.25, None]
    assert removed["stages"][0]["stage"] == "blocks.4.hook_resid_post"


def test_types_of_nested_columns_do_not_depend_on_what_is_in_them(tmp_path):
    of = inspected.intervened(inspected.text(documents=inspected.documents()), features=())
    write_records([of], tmp_path / "records.parquet", token_text=inspected.token_text)
    schema = pq.read_schema(tmp_path / "records.parquet")
    assert schema.field("interventions").type == list_type(NESTED["interventions"])
    assert str(schema.field("top_documents").type).startswith("list<element: struct<document: int64, name: string")
    assert "partners_upstream" not in schema.names
    (row,) = [int(r) for r in of.records.top_rows[3][:1]]
    assert of.sample.origins is not None
    found = of.sample.origins.document(row)
    assert found is not None
    place = read(tmp_path / "records.parquet")[3]["top_documents"][0]
    assert (place["document"], place["name"] or "", place["position"]) == found
    write_records(inspected.toy(), tmp_path / "toy.parquet")
    assert not set(NESTED) & set(pq.read_schema(tmp_path / "toy.parquet").names)


def test_other_kinds_of_files_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"\.parquet or \.jsonl"):
        write_records([inspected.text()], tmp_path / "records.csv")
