"""The site: every public name has its place, every page is in the navigation, and it builds without a warning."""

import importlib.util
import pkgutil
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import faithfulness_plugin

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"


def hook(name: str) -> Any:
    """Load a hook of mkdocs, as mkdocs does."""
    spec = importlib.util.spec_from_file_location(f"docs_site_{name}", DOCS / "site" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


REFERENCE = hook("reference")


def test_every_public_name_has_its_place():
    pages = REFERENCE.reference_pages()
    named = {name for text in pages.values() for name in re.findall(r"^::: (\S+)$", text, flags=re.MULTILINE)}
    packages = [faithfulness_plugin, *(getattr(faithfulness_plugin, name) for name in ("metrics", "inspection"))]
    packages += [getattr(faithfulness_plugin, name) for name in ("attribution", "figures", "store")]
    for package in packages:
        called = package.__name__.replace(".benchmarks.figures", ".figures")
        assert {f"{called}.{name}" for name in package.__all__ if name != "__version__"} <= named
    for name in named:
        if not name.startswith("faithfulness_plugin.adapters"):  # which need their libraries
            assert pkgutil.resolve_name(name) is not None


def test_a_new_name_appears_by_itself():
    assert REFERENCE.listed('__all__ = ["one", "two"]') == ["one", "two"]
    assert REFERENCE.listed("__getattr__, __dir__, __all__ = submodules(__name__, __path__)") == []


def test_every_command_has_its_help():
    from faithfulness_plugin.cli.app import BENCH, COMMANDS

    page = REFERENCE.commands_page()
    assert all(f"## `faithfulness {name}`" in page for name in COMMANDS if name != "bench")
    assert all(f"## `faithfulness bench {name}`" in page for name in BENCH)
    assert "Usage: faithfulness measure" in page


def test_links_between_files_become_links_of_the_site(tmp_path):
    rewritten, source = hook("links").rewritten, DOCS / "guides" / "measure.md"
    on_site = {ROOT / "README.md": "readme.md", DOCS / "hooks.md": "hooks.md"}
    text = (
        "[a](../../README.md#use-it) ![b](../hooks.md) [c](../../pyproject.toml) [d](https://e.org) [f](#g) [h](no.md)"
    )
    assert rewritten(text, source, "guides/measure.md", on_site, None) == (
        "[a](../readme.md#use-it) ![b](../hooks.md) c [d](https://e.org) [f](#g) [h](no.md)"
    )
    assert "[c](https://e.org/x/blob/main/pyproject.toml)" in rewritten(text, source, "a.md", {}, "https://e.org/x/")
    code = "```\n[a](../../README.md)\n```"
    assert rewritten(code, source, "guides/measure.md", on_site, None) == code


def test_every_page_is_in_the_navigation():
    pages = hook("pages")
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    written = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")}
    assert not {page for page in written if "/" in page} - set(re.findall(r"[\w-]+/[\w-]+\.md", text))
    assert pages.filled([{"In depth": ["a.md", "*"]}], {"*": ["b.md", "c.md"]}) == [
        {"In depth": ["a.md", "b.md", "c.md"]}
    ]
    assert {"results/toy/report.md", "results/toy/report-page.html"} <= set(pages.result_files())


def test_a_results_page_in_html_links_to_pages_of_the_site():
    pages = hook("pages")
    path = pages.RESULTS / "faithfulness" / "leaderboard.html"
    linked = pages.linked(
        '<a href="../../../docs/benchmark.md#scores"> <a href="../toy/report.md"> <a href="https://e.org/x.md">',
        path,
        "results/faithfulness/leaderboard-page.html",
    )
    assert linked == (
        '<a href="../../benchmark.html#scores"> <a href="../toy/report.html"> <a href="https://e.org/x.md">'
    )


@pytest.mark.slow
def test_it_builds_without_a_warning_and_asks_nothing_of_the_network(tmp_path):
    pytest.importorskip("material")
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    done = subprocess.run(build, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    loaded = r"<(?:script|img|iframe|link)\b[^>]*?(?:src|href)=[\"']?(?:https?:)?//[^\"' >]+"
    for page in tmp_path.rglob("*.html"):
        if "results" not in page.relative_to(tmp_path).parts:
            assert not re.findall(loaded, page.read_text(encoding="utf-8")), page
    assert (tmp_path / "search" / "search_index.js").exists()  # read by a page that was opened from disk
