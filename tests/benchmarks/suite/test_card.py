import numpy as np
import pytest
import small_suite
from PIL import Image
from small_suite import scores

from faithfulness_plugin.benchmarks.suite.card import card
from faithfulness_plugin.benchmarks.suite.report import failures, headlines, task_table
from faithfulness_plugin.errors import UsageError
from faithfulness_plugin.results.schema import fingerprint

METHODS = {
    "a": lambda seed, s: scores(3 - 5 * s, 0.5 + seed / 100),
    "b": lambda seed, s: scores(4 + s, 0.25),
    "broken": lambda seed, s: "RuntimeError: no luck",
}


def test_the_card_draws_both_methods_at_every_task_beside_the_layers_l0():
    figure = card(small_suite.result(METHODS), "a", "b").figure()
    panels = [ax for sub in figure.subfigs for ax in sub.axes if ax.get_title()]
    assert [ax.get_title() for ax in panels] == [
        "Absolute value, one repeated point",
        "Absolute value through a rotation",
    ]
    for ax in panels:
        assert 2.0 in [np.asarray(line.get_xdata())[0] for line in ax.lines]
        curve = ax.lines[0]
        assert np.sort(np.asarray(curve.get_xdata())) == pytest.approx([1.0, 2.0, 2.5])
        assert curve.get_ydata() == pytest.approx([0.5 + (11 + 23 + 37) / 300] * 3)


def test_the_table_tells_what_is_not_reached_and_what_failed():
    result = small_suite.result(METHODS)
    text = card(result, "b").table.render("markdown")
    assert "not reached (0.250 at L0 4.10)" in text
    assert "0 of 0, 9 trials failed" in task_table(result, "rotated").render("markdown")
    assert headlines(result).render("markdown").count("not reached") == 2
    assert failures(result.trials) == [
        f"broken at {name}: 9 trials failed: RuntimeError: no luck" for name in ("absolute_value", "rotated")
    ]


@pytest.mark.parametrize("kind", ["png", "pdf", "svg", "html"])
def test_it_is_written_as_its_name_says(tmp_path, kind):
    result = small_suite.result(METHODS)
    path = tmp_path / "deeper" / f"card.{kind}"
    card(result, "a", "b").write(path)
    assert [p.name for p in path.parent.iterdir()] == [f"card.{kind}"]
    if kind == "png":
        with Image.open(path) as image:
            assert image.info["Source"] == fingerprint(result)
    if kind == "html":
        page = path.read_text()
        assert "data:image/png;base64," in page
        assert 'src="card.png"' not in page


def test_what_cannot_be_drawn_says_why(tmp_path):
    result = small_suite.result(METHODS)
    for match, method, against, name in (
        ("holds 3 methods: pass --method, such as a", "", "", "card.png"),
        ("no method 'x'", "x", "", "card.png"),
        ("no method 'x'", "a", "x", "card.png"),
        ("no trial of broken has scores: broken at absolute_value: 9 trials failed", "broken", "", "card.png"),
        ("let its name end in .png", "a", "", "card.bmp"),
    ):
        with pytest.raises(UsageError, match=match):
            card(result, method, against).write(tmp_path / name)
    assert not list(tmp_path.iterdir())
