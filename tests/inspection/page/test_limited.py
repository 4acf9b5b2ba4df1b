"""Large pages: which features they show in detail, what is left of the others, and how large they get."""

from dataclasses import replace

import inspected
import numpy as np
import pytest
from large_set import large_set, token_text
from packing_twin import unpacked

from faithfulness_plugin.inspection.page import page_html
from faithfulness_plugin.inspection.page.limited import OF_A_SET, features_in_detail
from faithfulness_plugin.inspection.page.payload import payload

pytestmark = pytest.mark.usefixtures("as_installed")


def test_the_features_in_detail_are_those_that_were_changed_and_those_that_the_table_begins_with():
    first, *others = inspected.a_set()
    each = [inspected.intervened(first), *others]
    assert features_in_detail(each, 180) is None
    chosen = features_in_detail(each, 30)
    assert chosen is not None
    for of, features in zip(each, chosen, strict=True):
        assert len(features) == 10
        assert (np.diff(features) > 0).all()
        changed = [change.feature for change in of.interventions]
        assert set(changed) <= set(features.tolist())
        rest = [i for i in features if i not in changed]
        left = np.setdiff1d(np.arange(60), features)
        assert of.records.unbacked[rest].min() >= of.records.unbacked[left].max()
    of = replace(others[-1], records=replace(others[-1].records, carried=np.zeros(60)))
    (features,) = features_in_detail([of], 59) or []
    assert set(range(60)) - set(features.tolist()) == {5}  # the one that never fires


def test_a_page_with_details_of_some_features_has_their_arrays_and_numbers_of_all():
    each = inspected.a_set()
    meta, whole = unpacked(payload(each, inspected.token_text))
    assert "detailed" not in meta
    meta, arrays = unpacked(payload(each, inspected.token_text, details=30))
    for n in range(3):
        features = arrays[f"{n}.detailed"]
        assert len(features) == 10
        for name in ("windows", "up.features", "raised", "histogram", "top_rows"):
            assert name in meta["detailed"]
            np.testing.assert_array_equal(arrays[f"{n}.{name}"], whole[f"{n}.{name}"][features])
        np.testing.assert_array_equal(arrays[f"{n}.first.top_at"], whole[f"{n}.top_at"][:, :1])
        np.testing.assert_array_equal(arrays[f"{n}.first.raised"], whole[f"{n}.raised"][:, :3])
        for name in ("unbacked", "firing_rate", "faithfulness", "carried"):
            assert name not in meta["detailed"]
            np.testing.assert_allclose(arrays[f"{n}.{name}"], whole[f"{n}.{name}"], rtol=2**-11)
    single, _ = unpacked(payload(each[:1], inspected.token_text))
    assert "detailed" not in single  # of one transcoder all are shown


def test_a_page_of_thirty_layers_of_2304_features_is_below_10_megabytes():
    each = large_set()
    page = page_html(each, token_text=token_text)
    assert len(page.encode()) < 10e6
    _, arrays = unpacked(page.split('id="payload">')[1].split("<")[0])
    assert sum(len(arrays[f"{n}.detailed"]) for n in range(30)) == OF_A_SET // 30 * 30
    assert len(arrays["29.unbacked"]) == 2304
