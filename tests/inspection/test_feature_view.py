"""A feature as a notebook shows it."""

from dataclasses import replace
from html.parser import HTMLParser

import inspected
import numpy as np
import pytest

from faithfulness_plugin.errors import UsageError
from faithfulness_plugin.inspection.details import random_firings

pytestmark = pytest.mark.usefixtures("as_installed")


class Tags(HTMLParser):
    """Which elements a text has, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.shown = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.add(tag)

    def handle_data(self, data: str) -> None:
        self.shown += data


def test_tokens_are_text_whatever_they_hold_and_the_one_that_fires_is_bold():
    of = replace(inspected.text(), token_text=inspected.token_text)
    shown = Tags(of.feature(0)._repr_html_())
    assert shown.tags <= {"h4", "p", "code", "b", "div", "span", "small"}
    assert "<script>document.title='taken'</script>" in shown.shown
    assert "Feature 0 of <i>hostile</i>" in shown.shown
    for name in ("raised:", "lowered:", "read:", "fires on:", "most active", "at random", "near-duplicates do not"):
        assert name in shown.shown


def test_rows_and_activations_are_those_of_the_records():
    of = replace(inspected.text(), token_text=inspected.token_text)
    view, windows = of.feature(5), of.details.windows
    assert windows is not None
    rows = random_firings(of.records).rows[5]
    assert [row for _, row, _ in view.groups["at random"]] == rows.tolist()
    for places in view.groups.values():
        for place, row, activation in places:
            assert of.activations.part(slice(row, row + 1)).toarray()[0, 5] == pytest.approx(activation)
            middle = windows[5, place, 15] / 255 * of.records.max_activation[5]
            assert middle == pytest.approx(activation, abs=of.records.max_activation[5] / 250)
    assert view.tokens["raised"][0] == inspected.token_text(int(of.tokens.raised.tokens[5, 0]))  # pyright: ignore
    assert view.numbers["fires"] == of.records.firing_rate[5]
    assert repr(view).startswith("FeatureView(transcoder='<i>hostile</i>', feature=5, fires=")


def test_rows_of_no_text_and_features_that_never_fire():
    (of,) = inspected.toy()
    assert "x1 = 1, x2 = 1, x3 = 1" in of.feature(35)._repr_html_()
    assert "looks like a datapoint feature" in of.feature(35)._repr_html_()
    assert of.feature(35).tokens == {}
    dead = of.feature(int(np.flatnonzero(of.records.dead)[0]))
    assert dead.groups == {}
    assert "does not fire" in dead._repr_html_()
    for index in (-1, 40):
        with pytest.raises(UsageError, match=f"there is no feature {index}: planted has 0 to 39"):
            of.feature(index)
