import html
from dataclasses import replace
from typing import Any

import inspected
import numpy as np
import pytest
import torch
from packing_twin import unpacked

from faithfulness_plugin.inspection.page import page_html, write_page
from faithfulness_plugin.inspection.page.payload import nearest_features, payload

pytestmark = pytest.mark.usefixtures("as_installed")


def test_tokens_and_names_are_data_and_never_markup():
    page = page_html([inspected.text()], token_text=inspected.token_text)
    assert "title='taken'" not in page
    assert "<i>hostile" not in page
    assert "<title>Features of &lt;i&gt;hostile&lt;/i&gt;</title>" in page
    own = page.split('id="payload">')[1].split("<")[0]
    meta, _ = unpacked(own)
    assert set(meta["vocabulary"]) == set(inspected.HOSTILE)
    assert meta["transcoders"][0]["name"] == "<i>hostile</i>"
    assert set(meta["words"]) == set(inspected.HOSTILE)


def test_the_payload_holds_features_in_the_models_words():
    of = inspected.text()
    meta, arrays = unpacked(payload([of], inspected.token_text))
    assert of.tokens is not None
    assert of.details.places is not None
    for name in ("raised", "lowered", "read"):
        found = getattr(of.tokens, name)
        words = [[meta["words"][place] for place in row] for row in arrays[f"0.{name}"]]
        assert words == [[inspected.token_text(t) for t in row] for row in found.tokens]
        values = arrays[f"0.{name}.values"] / 127 * arrays[f"0.{name}.scale"][:, None]
        np.testing.assert_allclose(values, found.values, atol=np.abs(found.values).max() / 200)
    rates = arrays["0.positions"] / 127 * arrays["0.positions.scale"][:, None]
    np.testing.assert_allclose(rates, of.details.places.by_position, atol=0.01)
    assert of.records.faithfulness is not None
    np.testing.assert_allclose(arrays["0.faithfulness"], of.records.faithfulness.faithfulness, atol=1e-6)
    n_pos, origins, row = arrays["tokens"].shape[1], of.sample.origins, int(of.details.bands.rows[3, 1, 0])
    assert origins is not None
    assert arrays["0.bands.at"][3, 1, 0] == origins.prompt[row] * n_pos + origins.position[row]
    assert meta["transcoders"][0]["least_faithful"] == of.records.least_faithful(10).tolist()


def test_the_payload_holds_the_documents_that_prompts_are_from():
    meta, arrays = unpacked(payload([inspected.text(documents=inspected.documents())], inspected.token_text))
    assert meta["documents"] == {"0": inspected.HOSTILE[1], "2": "third.txt"}
    begins, documents, positions = (arrays[f"documents.{name}"] for name in ("begins", "documents", "positions"))
    assert begins.tolist()[:5] == [0, 1, 20, 21, 27]  # 19 tokens, then 6 of the first document and 13 of the second
    assert documents.tolist()[:5] == [-1, 0, -1, 0, 1]
    assert positions.tolist()[:5] == [0, 0, 0, 19, 0]
    assert not any(name.startswith("documents") for name in unpacked(payload([inspected.text()], None))[1])


def test_a_policy_forbids_the_network_and_scripts_end_where_they_should():
    page = page_html(inspected.toy())
    assert "default-src 'none'" in page
    assert "connect-src" not in page
    assert page.count("</script") == 3
    assert " src=" not in page.split("<script", 1)[0]
    assert "@payload@" not in page


def test_the_payload_holds_what_was_found():
    of = inspected.toy(both=True)
    examples = of[0].overview.examples
    assert examples is not None
    meta, arrays = unpacked(payload(of, None))
    records = of[0].records
    np.testing.assert_allclose(arrays["0.score"], records.datapoint.score, atol=1e-6)
    np.testing.assert_array_equal(arrays["0.top_rows"], records.top_rows)
    np.testing.assert_allclose(arrays["0.reads"], of[0].transcoder.W_enc.T.detach(), atol=1e-6)
    np.testing.assert_allclose(arrays["0.example.layer"], examples.layer)
    shown = dict(zip(arrays["0.shown.rows"].tolist(), arrays["0.shown.x"], strict=True))
    row = int(records.top_rows[35, 0])
    np.testing.assert_allclose(shown[row], of[0].sample.x[row], atol=1e-6)
    assert meta["transcoders"][0]["scores"]["flagged features"] == 1
    assert meta["transcoders"][1]["scores"]["flagged features"] == 0
    assert arrays["0.twin"][:32].tolist() == list(range(32))
    assert meta["transcoders"][0]["least_faithful"][0] == 35
    assert "words" not in meta
    assert set(np.unique(arrays["0.bands.rows"])) <= {-1, *arrays["0.shown.rows"].tolist()}


def test_a_notebook_shows_the_page_in_a_frame_and_says_where_it_is_too_large(tmp_path, monkeypatch):
    of = replace(inspected.text(), token_text=inspected.token_text)
    page = of.page()
    assert repr(page) == "Page(transcoders=['<i>hostile</i>'])"
    shown = page._repr_html_()
    assert shown.startswith("<iframe title=")
    assert "allow-same-origin" not in shown
    assert html.unescape(shown.split('srcdoc="')[1].split('"')[0]) == page.html == page_html([of])
    page.save(tmp_path / "page.html")
    assert (tmp_path / "page.html").read_text("utf-8") == page.html
    monkeypatch.setattr("faithfulness_plugin.inspection.page.MOST_SHOWN", 1e6)
    assert "<iframe" not in page._repr_html_()
    assert "save" in page._repr_html_()
    assert "<i>hostile" not in page._repr_html_()


def test_a_pages_tokens_are_those_of_the_inspection():
    of = replace(inspected.text(), token_text=inspected.token_text)
    assert page_html([of]) == page_html([of], token_text=inspected.token_text)
    assert page_html([of]) != page_html([inspected.text()])


def test_wide_transcoders_are_shown_by_their_largest_weights():
    of = inspected.text()
    meta, arrays = unpacked(payload([of], inspected.token_text))
    W = of.transcoder.W_dec.detach().numpy()
    coordinates = arrays["0.writes.coordinates"]
    values = arrays["0.writes.largest"] / 127 * arrays["0.writes.scale"][:, None]
    np.testing.assert_allclose(values, np.take_along_axis(W, coordinates.astype(int), 1), atol=np.abs(W).max() / 200)
    assert "0.reads" not in arrays
    assert meta["transcoders"][0]["spectrum"] is not None
    n_pos, place = arrays["tokens"].shape[1], arrays["0.top_at"][3, 0]
    origins, row = of.sample.origins, int(of.records.top_rows[3, 0])
    assert origins is not None
    assert (place // n_pos, place % n_pos) == (origins.prompt[row], origins.position[row])
    vocabulary = [meta["vocabulary"][i] for i in arrays["tokens"][place // n_pos]]
    assert vocabulary == [inspected.token_text(int(t)) for t in origins.tokens[place // n_pos]]


def test_twins_are_features_that_read_and_write_alike(make_transcoder):
    one, other = make_transcoder(d_sae=30), make_transcoder(d_sae=20)
    with torch.no_grad():
        other.W_enc[:, 4], other.W_dec[4] = 3 * one.W_enc[:, 17], one.W_dec[17] / 2
        other.W_enc[:, 5], other.W_dec[5] = one.W_enc[:, 3], -one.W_dec[3]
    which, cosine = nearest_features(one, other)
    assert (which[17], cosine[17]) == (4, pytest.approx(1, abs=1e-5))
    assert which[3] != 5
    assert cosine.max() <= 1 + 1e-5


def test_pages_show_one_or_two_of_one_sample(tmp_path):
    with pytest.raises(ValueError, match="these are 0"):
        page_html([])
    with pytest.raises(ValueError, match="different samples"):
        page_html([*inspected.toy(), *inspected.toy()])
    write_page(inspected.toy(), tmp_path / "deep" / "page.html")
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["page.html"]


def test_the_payload_holds_what_fires_together():
    of = inspected.text()
    assert of.together is not None
    _, arrays = unpacked(payload([of], inspected.token_text))
    np.testing.assert_array_equal(arrays["0.together"], of.together.features)
    assert arrays["0.together"][0, 0] == 1
    np.testing.assert_allclose(arrays["0.together.phi"] / 255, of.together.phi, atol=0.01)
    np.testing.assert_allclose(arrays["0.together.share"] / 255, of.together.share, atol=0.01)
    np.testing.assert_allclose(arrays["0.together.rates"], of.together.rates, atol=1e-6)
    assert "0.up.places" not in arrays
    assert "0.intervened.features" not in arrays


def test_the_payload_of_a_set_holds_partners_of_every_layer():
    each = inspected.a_set()
    meta, arrays = unpacked(payload(each, inspected.token_text))
    assert meta["set"]
    assert meta["rows"] == each[0].records.n_rows > 0
    assert [t["name"] for t in meta["transcoders"]] == [f"<b>block</b> {n}" for n in range(3)]
    assert "0.twin" not in arrays
    of: Any
    for n, of in enumerate(each):
        for side in ("up", "down"):
            partners = getattr(of.edges, side)
            places = np.where(partners.places < 0, 65535, partners.places)
            np.testing.assert_array_equal(arrays[f"{n}.{side}.places"], places)
            np.testing.assert_array_equal(arrays[f"{n}.{side}.features"], partners.features)
            for name in ("direct", "skipped", "strength"):
                np.testing.assert_allclose(arrays[f"{n}.{side}.{name}"], getattr(partners, name), rtol=1e-6)
        np.testing.assert_allclose(arrays[f"{n}.from.others"], of.edges.interference.others, rtol=1e-6)
    assert (arrays["2.up.places"][5] == 65535).all()
    page = page_html(each, token_text=inspected.token_text)
    assert "<title>Features of &lt;b&gt;block&lt;/b&gt; 0 to &lt;b&gt;block&lt;/b&gt; 2</title>" in page


def test_the_payload_holds_interventions_with_each_token_as_text():
    of = inspected.intervened(inspected.text())
    meta, arrays = unpacked(payload([of], inspected.token_text))
    assert arrays["0.intervened.features"].tolist() == [3, 9, 11]
    assert arrays["0.intervened.prompts"].tolist() == [8, 8, 0]
    assert meta["transcoders"][0]["stages"] == ["4", "5", "6"]
    moved: Any = of.interventions[1].next_token["double"]
    np.testing.assert_allclose(arrays["0.intervened.moves"][1, 1], moved.moves, rtol=1e-6)
    words = [meta["words"][place] for place in arrays["0.intervened.tokens"][1, 1]]
    assert words == list(inspected.HOSTILE)
    assert np.isnan(arrays["0.intervened.moves"][0, 0, 5:]).all()  # five tokens alone
    assert np.isnan(arrays["0.intervened.kl"][2]).all()
    np.testing.assert_array_equal(arrays["0.intervened.error"][0, 0], np.array([0, 0.25, np.nan], np.float32))
    assert "title='taken'" not in page_html([of], token_text=inspected.token_text)
