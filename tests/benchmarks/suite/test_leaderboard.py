import json
import re

import pytest
import small_suite
from PIL import Image
from small_suite import scores

from faithfulness_plugin.benchmarks.suite.leaderboard import write_leaderboard
from faithfulness_plugin.results.schema import ResultError, fingerprint

METHODS = {
    "topk-none": lambda seed, s: scores(3 - 5 * s, 0.2 + seed / 1000),
    "topk-jvp": lambda seed, s: scores(3 - 5 * s, 0.9 + seed / 1000),
    "topk-secant": lambda seed, s: scores(3 - 5 * s, 0.1 + seed / 1000),
    "topk-data": lambda seed, s: scores(5 + s, 0.9),
    "topk-augmentation": lambda seed, s: scores(3 - 5 * s, 0.5 + seed / 1000),
}


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    out = tmp_path_factory.mktemp("leaderboard")
    result = small_suite.result(METHODS, tasks=("absolute_value", "shuffled_layer"))
    beside = {"Layers of a language model": "Numbers of layers."}
    written = write_leaderboard([result, small_suite.result({"mine": METHODS["topk-jvp"]})], out, beside)
    assert [path.name for path in written] == ["leaderboard.md", "leaderboard.html", "what_matching_buys.png"]
    with Image.open(written[2]) as image:
        assert image.info["Source"] == fingerprint(result)
    return out


def test_gains_are_against_none_and_the_control_comparison_against_augmentation(page):
    text = (page / "leaderboard.md").read_text()
    gains = text[text.index("## What matching buys") : text.index("## Where it does not help")]
    assert re.search(r"\| topk-jvp \| 0.700 \(\S+ to \S+\) \| 0.700 \(\S+ to \S+\) \|", gains)
    assert "| topk-data | — | — |" in gains
    control = text[text.index("## Which control") : text.index("## Task by task")]
    assert re.search(r"\| topk-jvp \| 0.400 \(", control)
    assert "topk-none" not in control


def test_where_it_does_not_help_follows_from_the_intervals_and_leaves_out_the_shuffled_layer(page):
    text = (page / "leaderboard.md").read_text()
    lines = re.findall(r"^- .*", text, flags=re.MULTILINE)
    assert lines == [
        "- **Absolute value, one repeated point.** worse: topk-secant; not comparable: topk-data.",
    ]


def test_other_results_stand_beside_the_first(page):
    assert (page / "leaderboard.md").read_text().count("| mine |") == 2  # its rank, and its table


def test_methods_are_sorted_by_their_mean_rank(page):
    text = (page / "leaderboard.md").read_text()
    methods = text[text.index("## Methods") : text.index("## Layers")]
    # 0.9, 0.9, 0.5, 0.2 and 0.1 at the layer's L0, which `data` does not reach; the shuffled layer is not ranked
    assert re.findall(r"^\| ([\w-]+) \| ([\d.]+) \| (\d of \d) \|", methods, flags=re.MULTILINE) == [
        ("topk-jvp", "1.5", "1 of 1"),
        ("mine", "1.5", "1 of 1"),
        ("topk-augmentation", "3.0", "1 of 1"),
        ("topk-none", "4.0", "1 of 1"),
        ("topk-secant", "5.0", "1 of 1"),
        ("topk-data", "6.0", "0 of 1"),
    ]


def test_other_tracks_have_their_sections(page):
    for name in ("leaderboard.md", "leaderboard.html"):
        assert "Numbers of layers." in (page / name).read_text()


def test_the_page_has_its_data_and_the_text_leads_to_it(page):
    html, text = ((page / f"leaderboard.{kind}").read_text() for kind in ("html", "md"))
    data = json.loads(re.findall(r'<script type="application/json" id="board-data">(.*?)</script>', html)[0])
    assert [of["name"] for of in data["tasks"] if of["ranked"]] == ["absolute_value"]
    best, last = data["methods"][0], data["methods"][-1]
    assert best["at"]["absolute_value"]["headline"][0] == pytest.approx(0.9, abs=0.05)
    assert last["name"] == "topk-data"
    assert last["at"]["absolute_value"]["nearest"][0] == pytest.approx(5.1)
    assert len(best["sweep"]["absolute_value"]) == 3
    assert "](leaderboard.html)" in text
    assert "](leaderboard.html)" not in html


def test_the_html_needs_no_other_file(page):
    text = (page / "leaderboard.html").read_text()
    assert "data:image/png;base64," in text
    assert 'src="what' not in text


def test_partial_results_and_single_seeds_are_refused(tmp_path):
    whole = small_suite.result(METHODS)
    for match, result in (
        ("is partial", whole.with_trials(whole.trials[:-1])),
        ("has one seed", small_suite.result(METHODS, seeds=[11])),
    ):
        with pytest.raises(ResultError, match=match):
            write_leaderboard([result], tmp_path / "out")
    assert not (tmp_path / "out").exists()
