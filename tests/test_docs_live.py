"""The hook that makes pages of features when the site is built."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from faithfulness_plugin.benchmarks.inspection import live as pages
from faithfulness_plugin.errors import UsageError

DOCS = Path(__file__).resolve().parent.parent / "docs"


@pytest.fixture(scope="module")
def hook() -> Any:
    spec = importlib.util.spec_from_file_location("docs_site_live", DOCS / "site" / "live.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_pages_are_made_once_and_left_out_where_the_model_is_not_there(hook, tmp_path, monkeypatch, capsys):
    written = []

    def toy(path: Path) -> None:
        written.append(path)
        path.write_text("page")

    def layer(path: Path) -> None:
        raise UsageError("the package that holds the model is not installed")

    monkeypatch.setattr(pages, "PAGES", {"toy": toy, "layer": layer})
    for _ in range(2):
        assert hook.made(tmp_path / "new") == {"toy": tmp_path / "new" / "toy.html"}
    assert len(written) == 1
    assert "live/layer.html is left out: the package" in capsys.readouterr().err


def test_the_page_shows_what_was_made_and_says_what_was_not(hook):
    text = (DOCS / "live.md").read_text(encoding="utf-8")
    assert set(pages.PAGES) == {"toy", "layer"}
    whole = hook.shown(text, {"toy", "layer"})
    assert whole.count('<iframe class="live"') == 2
    assert "<!-- live" not in whole
    assert "built without the examples' model" in hook.shown(text, {"toy"})


def test_a_changed_source_makes_them_again(hook, tmp_path, monkeypatch):
    (tmp_path / "page.py").write_text("one")
    monkeypatch.setattr(hook, "SOURCES", (tmp_path,))
    before = hook.kept()
    assert hook.kept() == before
    (tmp_path / "page.py").write_text("two")
    assert hook.kept() != before


@pytest.mark.slow
def test_the_toy_is_inspected_without_and_with_matching(tmp_path):
    without, matched = pages.toys()
    assert without.records.flagged.sum() == 1
    assert matched.records.flagged.sum() == 0
    pages.toy_page(tmp_path / "toy.html")
    assert "one input repeated" in (tmp_path / "toy.html").read_text(encoding="utf-8")
