"""The page in a real browser: `make test-browser`."""

from dataclasses import fields, is_dataclass, replace
from types import SimpleNamespace
from typing import Any

import inspected
import numpy as np
import pytest
import torch

from faithfulness_plugin.inspection.details import random_firings
from faithfulness_plugin.inspection.inspection import Inspection
from faithfulness_plugin.inspection.page import write_page
from faithfulness_plugin.inspection.token_text import TokenText

pytestmark = [pytest.mark.browser, pytest.mark.usefixtures("as_installed")]


@pytest.fixture(scope="module")
def pages(tmp_path_factory) -> SimpleNamespace:
    folder = tmp_path_factory.mktemp("pages")
    write_page(inspected.toy(), folder / "toy.html")
    write_page(inspected.toy(both=True), folder / "two.html")
    write_page([inspected.text(neuronpedia="a/b")], folder / "text.html", token_text=inspected.token_text)
    return SimpleNamespace(toy=folder / "toy.html", two=folder / "two.html", text=folder / "text.html")


def column(tab: Any, n: int) -> list[str]:
    lines = tab.locator("#table-holder tr[data-feature]")
    return lines.evaluate_all("(lines, n) => lines.map((line) => line.cells[n].innerText)", n)


def test_the_overview_shows_scores_and_plots(open_page, pages):
    tab = open_page(pages.toy)
    assert tab.locator("#overview table th").nth(1).inner_text() == "planted"
    flagged = tab.locator("#overview tr", has_text="flagged features")
    assert flagged.locator("td").inner_text() == "1"
    least = tab.locator("#overview table").nth(1)
    assert least.locator("tr").nth(1).locator("th").inner_text() == "35"
    least.locator("a").first.click()
    tab.wait_for_selector("#feature h2 >> text=/^Feature 35/")
    tab.click("#tab-overview")
    tab.wait_for_selector("#overview [role=img] .main-svg")  # plots come after the page
    least.locator("a").first.click()  # the address is the same by now
    tab.wait_for_selector("#features:visible")
    tab.click("#tab-overview")
    assert tab.locator("#tab-compare").is_hidden()


def test_sorting_filtering_and_searching(open_page, pages):
    tab = open_page(pages.toy)
    tab.click("#tab-features")
    tab.wait_for_selector("#feature h2")
    assert tab.locator("#feature h2").inner_text().startswith("Feature 35")
    assert "looks like a datapoint feature" in tab.locator("#feature h2").inner_text()
    scores = [float(s) for s in column(tab, 1)]
    assert scores == sorted(scores, reverse=True)
    tab.click("#table-holder th >> text=feature")
    tab.wait_for_selector("#table-holder th[aria-sort=ascending] >> text=feature")
    assert [int(i) for i in column(tab, 0)[:5]] == [0, 1, 2, 3, 4]
    tab.locator("#table-holder tr[data-feature]").nth(3).click()  # a choice leaves the order as it is
    tab.wait_for_selector("#feature h2 >> text=/^Feature 3$/")
    tab.wait_for_timeout(200)
    assert [int(i) for i in column(tab, 0)[:5]] == [0, 1, 2, 3, 4]
    assert "33 features" in tab.locator("#table-holder .info").inner_text()  # dead ones are hidden
    tab.uncheck("#hide-dead")
    assert "40 features" in tab.locator("#table-holder .info").inner_text()
    tab.check("#flagged-only")
    assert column(tab, 0) == ["35"]
    tab.uncheck("#flagged-only")
    tab.fill("#search", "ReLU(-x7)")
    assert column(tab, 0) == ["22"]
    assert tab.locator("#feature h2").inner_text() == "Feature 22"
    tab.fill("#search", "no such circuit")
    assert "No feature passes these filters" in tab.locator("#table-holder tbody").inner_text()
    tab.fill("#search", "")
    tab.fill("#least-score", "0.5")
    assert column(tab, 0) == ["35"]


def test_keys_alone_go_through_the_page(open_page, pages):
    tab = open_page(pages.toy)
    tab.keyboard.press("Tab")
    assert tab.evaluate("document.activeElement.id") == "tab-overview"
    tab.keyboard.press("ArrowRight")
    assert tab.locator("#features").is_visible()
    tab.keyboard.press("/")
    tab.keyboard.type("datapoint")
    assert column(tab, 0) == ["35"]
    tab.fill("#search", "")
    tab.keyboard.press("Escape")
    tab.keyboard.press("ArrowDown")
    second = column(tab, 0)[1]
    assert tab.locator("#feature h2").inner_text() == f"Feature {second}"
    assert tab.locator("tr.chosen td").first.inner_text() == second
    tab.keyboard.press("End")
    last = tab.locator("#feature h2").inner_text()
    assert last != f"Feature {second}"
    tab.keyboard.press("Enter")
    assert tab.evaluate("document.activeElement.id") == "feature"


def test_a_features_details(open_page, pages):
    tab = open_page(pages.toy, "#0/35")
    tab.wait_for_selector("#feature h2")
    assert "x1 = 1, x2 = 1, x3 = 1" in tab.locator("#feature table").first.inner_text()
    choice = tab.get_by_label("Row of the Jacobian")
    options = choice.locator("option").all_inner_texts()
    whole = next(text for text in options if text.startswith("whole") and text.endswith("x1 = 1, x2 = 1, x3 = 1"))
    choice.select_option(label=whole)
    tab.locator("#feature figure", has_text="this feature's part").scroll_into_view_if_needed()
    tab.wait_for_selector('#feature [aria-label="this feature\'s part"] .heatmaplayer')
    J = tab.locator('#feature [aria-label="layer"]').evaluate("(plot) => plot.data[0].z.map((row) => Array.from(row))")
    assert np.array_equal(np.diag(J), [1.0] * 3 + [0.0] * 13)
    part = tab.locator('#feature [aria-label="this feature\'s part"]').evaluate("(plot) => plot.data[0].z[0][1]")
    assert part == 10  # what it writes to y1 as x2 moves


def test_two_side_by_side(open_page, pages):
    tab = open_page(pages.two)
    tab.click("#tab-features")
    tab.wait_for_selector("#feature h2")
    tab.select_option("#which", label="exact")
    assert tab.locator("#feature h2").inner_text().endswith("of exact")
    tab.select_option("#which", label="planted")
    assert "Feature 35 of planted" in tab.locator("#feature h2").inner_text()
    tab.click("#tab-compare")
    headings = tab.locator("#compare .side h2").all_inner_texts()
    assert headings[0].startswith("Feature 35 of planted")
    assert headings[1].endswith("of exact")
    assert tab.locator("#compare .side").count() == 2


def test_compare_before_anything_was_chosen_shows_the_first_by_score(open_page, pages):
    tab = open_page(pages.two)
    tab.click("#tab-compare")
    assert tab.locator("#compare .side h2").first.inner_text().startswith("Feature 35 of planted")


def test_an_address_opens_its_feature_a_dead_one_too_and_no_feature_is_no_choice(open_page, pages):
    tab = open_page(pages.toy, "#0/39")
    assert tab.locator("#feature h2").inner_text() == "Feature 39"
    assert "does not fire" in tab.locator("#feature").inner_text()
    tab.evaluate("location.hash = '#0/3'")
    tab.wait_for_selector("#feature h2 >> text=/^Feature 3$/")
    tab.fill("#search", "no such circuit")
    tab.click("#table-holder tbody tr")
    assert tab.locator("#feature h2").inner_text() == "Feature 3"
    assert tab.evaluate("location.hash") == "#0/3"


def test_tokens_are_text_whatever_they_hold(open_page, pages):
    tab = open_page(pages.text)
    tab.click("#tab-features")
    tab.wait_for_selector("#feature .context")
    assert tab.title() == "Features of <i>hostile</i>"
    shown = " ".join(tab.locator("#feature .context").all_inner_texts())
    assert "document.title='taken'" in shown
    assert "<b>bold</b>" in shown
    assert "&lt;b&gt;" in shown
    assert (
        tab.locator(".context script, .context img, .context b, .context a, td script, td img, td b, td a").count() == 0
    )
    top_token = tab.locator("#table-holder th").count() - 1
    assert set(column(tab, top_token)) <= {token.strip() for token in inspected.HOSTILE} | set(inspected.HOSTILE)
    assert tab.locator("#about").inner_text().startswith("<u>layer</u>")
    tab.fill("#search", "img src=x")
    either = [raised + top for raised, top in zip(column(tab, top_token - 1), column(tab, top_token), strict=True)]
    assert either
    assert all("<img" in text for text in either)
    link = tab.locator("#feature a")
    assert link.get_attribute("href").startswith("https://www.neuronpedia.org/a/b/")


def test_a_feature_in_the_models_words_examples_of_all_bands_and_the_whole_prompt(open_page, pages):
    tab = open_page(pages.text, "#0/0")
    tab.wait_for_selector("#feature table.words")
    titles = tab.locator("#feature table.words th").all_inner_texts()
    assert titles == ["Raises", "Lowers", "Reads"]
    shown = tab.locator("#feature table.words span").all_text_contents()
    assert set(shown) <= set(inspected.HOSTILE)
    assert len(shown) == 18
    assert tab.locator(".tokens script, .tokens img, .tokens b, .tokens a").count() == 0
    headings = tab.locator("#feature h3").all_inner_texts()
    assert "And where it is less active" in headings
    assert "Tokens on which it fires most often" in headings
    assert "near-duplicate" in tab.locator("#feature").inner_text()
    first = tab.locator("#feature .context").first
    before = first.locator("span").count()
    first.locator("button.more").click()
    assert tab.locator("#feature .context").first.locator("span").count() >= max(before, 20)
    assert (
        tab.locator("#feature dl div", has_text="faithful").first.get_attribute("title").startswith("How far the layer")
    )


def test_titles_explain_themselves_and_nothing_is_cut_at_1280_pixels(open_page, pages):
    for path in (pages.text, pages.two):
        tab = open_page(path)
        tab.set_viewport_size({"width": 1280, "height": 900})
        tab.click("#tab-features")
        tab.wait_for_selector("#feature h2")
        heads = tab.locator("#table-holder th")
        assert all(heads.evaluate_all("(all) => all.map((th) => th.title)"))
        names = heads.all_inner_texts()
        assert names[:4] == ["feature", "unbacked", "faithful", "datapoint"]
        body = tab.locator("#table-holder .scroll")
        sizes = body.evaluate("(b) => [b.scrollWidth, b.clientWidth, document.documentElement.scrollWidth, innerWidth]")
        assert sizes[0] <= sizes[1] + 1
        assert sizes[2] <= sizes[3]


def test_contexts_name_their_documents_and_whitespace_is_seen(open_page, tmp_path):
    of, spaces = inspected.text(documents=inspected.documents()), (" ", "\n", "\t", "a b", " \n", "", "\u00a0")
    assert of.sample.origins is not None
    write_page([of], tmp_path / "page.html", token_text=lambda token: spaces[token % len(spaces)])
    tab = open_page(tmp_path / "page.html", "#0/0")
    tab.wait_for_selector("#feature .context")
    rows = [int(row) for row in of.records.top_rows[0] if row >= 0]
    said = []
    for row in rows:
        found = of.sample.origins.document(row)
        assert found is not None
        number, name, position = found
        said.append(f"of {name or f'document {number}'}, token {position}")
    shown = [text.strip() for text in tab.locator("#feature .context .document").all_text_contents()]
    assert shown[: len(rows)] == said
    assert tab.locator("#feature .context img, #feature .context script").count() == 0
    tops = column(tab, tab.locator("#table-holder th").count() - 1)
    assert set(tops) <= {"\u2423", "\u21b5", "\u21e5", "a b", " \u21b5"}
    assert len(set(tops)) > 2
    tab.fill("#search", "\u21e5")
    assert column(tab, 0)


def test_rows_of_no_documents_name_none(open_page, pages):
    for path in (pages.text, pages.toy):
        tab = open_page(path, "#0/0")
        tab.wait_for_selector("#feature h2")
        assert tab.locator("#feature .document").count() == 0


def test_light_and_dark(open_page, pages):
    tab = open_page(pages.toy)
    tab.wait_for_selector("#overview [role=img] .main-svg")
    colours = []
    for _ in range(2):
        colours.append(tab.evaluate("getComputedStyle(document.body).backgroundColor"))
        tab.click("#theme")
    assert colours[0] != colours[1]
    assert tab.evaluate("getComputedStyle(document.body).backgroundColor") == colours[0]


def test_sixty_five_thousand_features_are_a_few_elements_and_quick(open_page, tmp_path):
    of = with_features(inspected.text(d_sae=512), 65_536)
    write_page([of], tmp_path / "large.html", token_text=inspected.token_text)
    tab = open_page(tmp_path / "large.html")
    session = tab.context.new_cdp_session(tab)
    session.send("Performance.enable", {"timeDomain": "threadTicks"})  # the page's own time, on a busy machine too

    def spent() -> float:
        metrics = session.send("Performance.getMetrics")["metrics"]
        return next(metric["value"] for metric in metrics if metric["name"] == "TaskDuration")

    tab.wait_for_selector("#overview [role=img] .main-svg")
    before = spent()
    tab.click("#tab-features")
    tab.wait_for_selector("#feature h2")
    tab.wait_for_selector("#table-holder tr[data-feature]")
    assert spent() - before < 1.5
    tab.uncheck("#hide-dead")
    assert "65,536 features" in tab.locator("#table-holder .info").inner_text()
    assert tab.locator("#table-holder tbody tr").count() < 100
    before = spent()
    tab.click("#table-holder th >> text=feature")
    tab.wait_for_selector("#table-holder th[aria-sort=ascending] >> text=feature")
    tab.fill("#search", "onerror")
    assert column(tab, 0)
    assert spent() - before < 3
    tab.fill("#search", "65535")
    assert column(tab, 0) == ["65535"]
    tab.fill("#search", "")
    tab.focus("#table-holder")
    tab.keyboard.press("End")
    assert tab.locator("#feature h2").inner_text() == "Feature 65535"
    assert tab.locator("tr.chosen td").first.inner_text() == "65535"
    tab.locator("#table-holder .scroll").evaluate("(scroll) => { scroll.scrollTop = 31 * 30000; }")
    tab.wait_for_selector("#table-holder tr[data-feature='30003']")


def with_features(of: Inspection, d_sae: int) -> Inspection:
    """The same inspection with its features again and again, as many as are asked for."""

    def again(value: Any) -> Any:
        if isinstance(value, np.ndarray) and value.shape[:1] == (of.records.d_sae,):
            return np.concatenate([value] * (d_sae // of.records.d_sae))
        if is_dataclass(value) and not isinstance(value, type):
            kept = {field.name: again(getattr(value, field.name)) for field in fields(value)}
            return type(value)(**kept)
        return value

    names = ("records", "details", "tokens")
    large = replace(of, **{name: again(getattr(of, name)) for name in names})
    W_enc, W_dec = of.transcoder.W_enc.detach(), of.transcoder.W_dec.detach()
    times = d_sae // of.records.d_sae
    weights = {"W_enc": W_enc.repeat(1, times), "W_dec": W_dec.repeat(times, 1), "cfg": of.transcoder.cfg}
    return replace(large, transcoder=SimpleNamespace(**weights))


def test_all_counts_begin_at_0_and_a_bar_of_one_feature_is_seen(open_page, pages):
    tab = open_page(pages.toy)
    for caption in ("Features by firing rate", "Features by datapoint score"):
        plot = f'#overview [role=img][aria-label^="{caption}"]'
        tab.locator(plot).scroll_into_view_if_needed()
        tab.wait_for_selector(f"{plot} .main-svg")
        drawn = tab.locator(plot).evaluate(
            "(plot) => [plot.data[0].y, plot.layout.yaxis.range, plot.data[0].customdata]"
        )
        heights, (low, high), counts = drawn
        assert low == 0
        assert max(heights) < high
        assert sum(count for count, *_ in counts) == 33  # those that fire
        assert min(h for h in heights if h) > high / 20


def test_random_firings_stand_beside_the_top_contexts(open_page, pages):
    tab = open_page(pages.text, "#0/0")
    tab.wait_for_selector("#feature table.words")
    assert "At random, of all its firings" in tab.locator("#feature h3").all_inner_texts()
    of = inspected.text()
    rows, origins = random_firings(of.records).rows[0], of.sample.origins
    assert origins is not None
    places = [f"prompt {origins.prompt[row]}, token {origins.position[row]}" for row in rows]
    heading = tab.locator("#feature h3", has_text="At random")
    buttons = "(h) => [...h.nextElementSibling.querySelectorAll('button.more')].map((b) => b.innerText)"
    shown = heading.evaluate(buttons)
    assert shown == places
    lit = tab.locator("#feature .context .most").evaluate_all("(all) => all.map((s) => s.style.background !== '')")
    assert all(lit)  # windows are those of the rows that are shown


def test_in_a_notebooks_frame_nothing_leaves_it(open_page, tmp_path):
    of = replace(inspected.text(), token_text=inspected.token_text)
    shown = of.page("<b>mine</b>")._repr_html_()
    (tmp_path / "notebook.html").write_text(
        f"<!doctype html><html data-ready=yes><head><title>notebook</title></head><body>{shown}</body></html>"
    )
    tab = open_page(tmp_path / "notebook.html")
    frame = tab.frame_locator("iframe")
    frame.locator("html[data-ready=yes]").wait_for(state="attached")
    frame.locator("#overview a[href^='#']").first.click()
    frame.locator("#feature h2").wait_for()
    frame.locator("#table-holder tr[data-feature]").nth(2).click()
    assert frame.locator("tr.chosen").count() == 1
    frame.locator("#feature [role=img]").first.scroll_into_view_if_needed()
    frame.locator("#feature [role=img] .main-svg").first.wait_for(state="attached")
    assert tab.url.endswith("notebook.html")
    assert tab.frames[1].url == "about:srcdoc"
    assert tab.title() == "notebook"
    assert frame.locator("h1").inner_text() == "<b>mine</b>"


def test_a_character_of_several_tokens_is_one_span(open_page, tmp_path):
    import transformers as hf
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # pyright: ignore[reportAttributeAccessIssue]
    bpe.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    letters = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(["a b"], trainers.BpeTrainer(initial_alphabet=letters, show_progress=False))
    tokenizer = hf.PreTrainedTokenizerFast(tokenizer_object=bpe)
    of = inspected.text()
    assert of.sample.origins is not None
    ids = tokenizer("a\U0001f600b你 \U0001f680c d efg", add_special_tokens=False)["input_ids"]
    of.sample.origins.tokens.copy_(torch.tensor(ids[:20]).expand(12, 20))
    write_page([of], tmp_path / "page.html", token_text=TokenText(tokenizer))
    tab = open_page(tmp_path / "page.html")
    tab.click("#tab-features")
    tab.wait_for_selector("#feature .context")
    whole = "a\U0001f600b你 \U0001f680c d efg"
    for line in tab.locator("#feature .context").all():
        spans = [span.inner_text() for span in line.locator("span").all()]
        assert "".join(line.locator("span").all_text_contents()) in whole
        assert all(spans)
        assert line.locator("span.most").count() == 1
    titles = tab.evaluate("[...document.querySelectorAll('.context span[title]')].map((s) => s.title)")
    assert any(title.endswith(": tokens of one character") for title in titles)
    assert "\ufffd" not in tab.content()
