"""Partners, features that fire together and interventions in a real browser: `make test-browser`."""

from pathlib import Path
from typing import Any

import inspected
import numpy as np
import pytest
from large_set import large_set, token_text

from faithfulness_plugin.inspection.page import write_page
from faithfulness_plugin.inspection.page.limited import features_in_detail

pytestmark = [pytest.mark.browser, pytest.mark.usefixtures("as_installed")]


@pytest.fixture(scope="module")
def a_set() -> Any:
    return inspected.a_set()


@pytest.fixture(scope="module")
def page_of_a_set(a_set, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("set") / "set.html"
    write_page([inspected.intervened(a_set[0]), *a_set[1:]], path, token_text=inspected.token_text)
    return path


def first_link(tab: Any, heading: str) -> Any:
    return tab.locator("#feature h4", has_text=heading).locator("xpath=following-sibling::table[1]").locator("a").first


def test_a_set_has_a_row_a_layer_and_links_lead_from_layer_to_layer_and_back(open_page, page_of_a_set, a_set):
    tab = open_page(page_of_a_set)
    assert tab.locator("#tab-compare").is_hidden()
    assert "3 layers, 180 features" in tab.locator("#about").inner_text()
    scores = tab.locator("#overview table").first
    assert scores.locator("tr").count() == 4
    assert scores.locator("th a").first.inner_text().startswith("<b>block</b> 0")
    tab.locator("#overview figure").first.scroll_into_view_if_needed()
    tab.wait_for_selector("#overview [role=img] .main-svg")
    least = tab.locator("#overview table").nth(1)
    assert least.locator("tr").count() == 11
    scores.locator("th a").nth(1).click()
    tab.wait_for_selector("#feature h2 >> text=of <b>block</b> 1")
    feature = int(tab.evaluate("location.hash").split("/")[1])
    up = a_set[1].edges.up
    link = first_link(tab, "Upstream")
    assert link.inner_text() == f"<b>block</b> 0 · {up.features[feature, 0]}"
    tab.fill("#search", "no such token")
    link.click()
    tab.wait_for_selector(f"#feature h2 >> text=Feature {up.features[feature, 0]} of <b>block</b> 0")
    assert tab.locator("#search").input_value() == ""  # a filter that the feature does not pass
    assert tab.locator("#which").input_value() == "0"
    assert tab.locator("tr.chosen td").first.inner_text() == str(up.features[feature, 0])
    assert "Upstream" not in tab.locator("#feature").inner_text()  # nothing is before the first layer
    assert first_link(tab, "Downstream").count() == 1
    tab.go_back()
    tab.wait_for_selector(f"#feature h2 >> text=Feature {feature} of <b>block</b> 1")
    tab.click("#tab-overview")
    scores.locator("th a").nth(1).click()  # the feature that is chosen already
    tab.wait_for_selector(f"#feature h2 >> text=Feature {feature} of <b>block</b> 1")


def test_partners_say_where_they_fire_what_skips_carry_and_where_it_comes_from(open_page, page_of_a_set, a_set):
    tab = open_page(page_of_a_set, "#2/8")
    tab.wait_for_selector("#feature h4")
    edges = a_set[2].edges
    table = tab.locator("#feature table.partners").first
    assert table.locator("tr").count() == 7
    heads = table.locator("th[title]").evaluate_all("(all) => all.map((th) => [th.innerText, th.title])")
    assert [name for name, title in heads if title] == ["strength", "weight", "by skips", "fires with it"]
    cells = table.locator("tr").nth(1).locator("td").all_inner_texts()
    assert float(cells[0]) == pytest.approx(edges.up.strength[8, 0], rel=0.01)
    assert float(cells[1]) == pytest.approx(edges.up.direct[8, 0] + edges.up.skipped[8, 0], rel=0.01)
    assert cells[2:4] == ["0", "40 %"]
    share = edges.interference.partners[8]
    assert f"{100 * share:.2g} % come from these partners" in tab.locator("#feature").inner_text()
    tab.evaluate("location.hash = '#2/7'")
    tab.wait_for_selector("#feature h2 >> text=/^Feature 7/")
    assert "It fires by its bias" in tab.locator("#feature").inner_text()
    tab.evaluate("location.hash = '#2/5'")
    tab.wait_for_selector("#feature h2 >> text=/^Feature 5/")
    assert "A feature that does not fire has none" in tab.locator("#feature").inner_text()
    assert tab.locator("table.partners b, table.partners script, table.partners img").count() == 0


def test_features_that_fire_together_are_links(open_page, page_of_a_set):
    tab = open_page(page_of_a_set, "#0/0")
    heading = tab.locator("#feature h3", has_text="Features that fire with it")
    table = heading.locator("xpath=following-sibling::table[1]")
    row = table.locator("tr").nth(1)
    assert row.locator("a").inner_text() == "1"
    phi, share, chance, _ = row.locator("td").all_inner_texts()
    assert float(phi) > 0.8
    assert float(share.split()[0]) > float(chance.split()[0])
    row.locator("a").click()
    tab.wait_for_selector("#feature h2 >> text=/^Feature 1 of/")
    tab.click("#theme")
    tab.wait_for_selector("#feature h3 >> text=Features that fire with it")


def test_interventions_are_drawn_and_a_dead_feature_says_so(open_page, page_of_a_set):
    tab = open_page(page_of_a_set, "#0/3")
    heading = tab.locator("#feature h3", has_text="Removed and doubled")
    table = heading.locator("xpath=following-sibling::table[1]")
    assert table.locator("tr").all_inner_texts()[1].split() == ["Removed", "0.125", "0.25", "12"]
    plots = tab.locator("#feature .plots.wide figure")
    assert plots.count() == 4
    for n in range(4):
        plots.nth(n).scroll_into_view_if_needed()
        plots.nth(n).locator(".main-svg").first.wait_for()
    ticks = plots.nth(2).locator(".ytick").all_text_contents()
    assert "<b>bold</b>" in ticks
    assert any("<script>" in text for text in ticks)
    assert tab.title().startswith("Features of")
    cosine = plots.nth(1).locator("[role=img]").evaluate("(plot) => Array.from(plot.data[0].y)")
    assert cosine[:2] == [1, 0.5]
    assert plots.nth(1).locator("[role=img]").evaluate("(plot) => plot.data[0].x") == ["4", "5", "6"]
    tab.evaluate("location.hash = '#0/11'")
    tab.wait_for_selector("#feature h2 >> text=/^Feature 11/")
    assert "there is nothing to remove or to double" in tab.locator("#feature").inner_text()
    tab.evaluate("location.hash = '#0/4'")
    tab.wait_for_selector("#feature h2 >> text=/^Feature 4/")
    assert "Removed and doubled" not in tab.locator("#feature").inner_text()


def test_a_large_page_shows_some_features_in_detail_and_says_of_the_others_where_theirs_are(open_page, a_set, tmp_path):
    first, *others = a_set
    of = inspected.intervened(first)
    write_page([of, *others], tmp_path / "page.html", token_text=inspected.token_text, details=30)
    chosen = features_in_detail([of, *others], 30)
    assert chosen is not None
    tab = open_page(tmp_path / "page.html", "#0/3")
    assert "Removed and doubled" in tab.locator("#feature").inner_text()
    assert first_link(tab, "Downstream").count() == 1
    assert of.edges is not None
    expected = of.edges.down.features[3, 0]
    assert first_link(tab, "Downstream").inner_text().endswith(f" {expected}")
    firing = np.flatnonzero(~others[0].records.dead)
    short = int(np.setdiff1d(firing, chosen[1])[0])
    tab.evaluate(f"location.hash = '#1/{short}'")
    tab.wait_for_selector(f"#feature h2 >> text=Feature {short} of")
    assert tab.locator("#feature h3").all_inner_texts() == ["Raises", "Where it is most active"]
    assert tab.locator("#feature .tokens span").count() == 3
    assert tab.locator("#feature .context").count() == 1
    assert tab.locator("#feature .context .most").count() == 1
    assert "of the 10 features that this table begins with" in tab.locator("#feature").inner_text()
    tab.locator("#feature button.more").click()
    assert tab.locator("#feature .context span").count() >= 20
    assert all(
        tab.locator("#table-holder tr[data-feature]").evaluate_all("(all) => all.map((r) => r.cells.length > 8)")
    )


def test_the_first_click_on_thirty_layers_of_2304_features_takes_half_a_second(open_page, tmp_path):
    write_page(large_set(), tmp_path / "large.html", token_text=token_text)
    tab = open_page(tmp_path / "large.html")
    session = tab.context.new_cdp_session(tab)
    session.send("Performance.enable", {"timeDomain": "threadTicks"})  # the page's own time, on a busy machine too

    def spent() -> float:
        parts = {metric["name"]: metric["value"] for metric in session.send("Performance.getMetrics")["metrics"]}
        return sum(parts[f"{name}Duration"] for name in ("Script", "Layout", "RecalcStyle"))

    tab.wait_for_selector("#overview [role=img] .main-svg")
    tab.wait_for_timeout(1000)
    before = spent()
    tab.click("#tab-features")
    tab.wait_for_selector("#feature h2")
    tab.wait_for_selector("#table-holder tr[data-feature]")
    assert spent() - before < 0.5


def test_nothing_is_cut_at_1280_pixels(open_page, page_of_a_set):
    tab = open_page(page_of_a_set)
    tab.set_viewport_size({"width": 1280, "height": 900})
    tab.evaluate("location.hash = '#0/3'")
    tab.wait_for_selector("#feature .plots.wide")
    for name in ("tab-features", "tab-overview"):
        tab.click(f"#{name}")
        for _ in range(50):  # plots are drawn anew a moment after the window changed
            if tab.evaluate("document.documentElement.scrollWidth <= innerWidth"):
                break
            tab.wait_for_timeout(200)
        assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth"), name
