"""A hook of mkdocs: pages that lie elsewhere in the repository are shown, and none is left out.

Reports, tables and figures of the committed results, the README, the changelog and the guide for contributors have
their place in the repository. They are added to the site from there, so that nothing is committed twice. In the
navigation "results/*" stands for every report of a result, and "*" for the pages in docs that it does not name.
"""

import os
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"
ADDED = {"README.md": "readme.md", "CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"}
SHOWN = (".md", ".png", ".html")
LINK = re.compile(r'href="(?!\w+:|#)([^"#]+)\.md(#[^"]*)?"')
IN_NAVIGATION = ("report.md", "leaderboard.md")


def result_files() -> dict[str, Path]:
    """Find what the site shows of the committed results.

    Returns:
        Files by their places on the site.
    """
    found = (path for path in sorted(RESULTS.rglob("*")) if path.suffix in SHOWN)
    return {f"results/{_place(path)}": path for path in found}


def _place(path: Path) -> str:
    """Return a file's place among the results: pages in HTML beside a report make room for what it becomes."""
    if path.suffix == ".html" and path.with_suffix(".md").exists():
        path = path.with_name(f"{path.stem}-page.html")
    return path.relative_to(RESULTS).as_posix()


def linked(html: str, path: Path, place: str) -> str:
    """Make links from a result's page in HTML to pages in Markdown links of the site.

    Args:
        html: the page.
        path: its file in the repository.
        place: its place on the site.

    Returns:
        The page with its links.
    """

    def link(match: re.Match[str]) -> str:
        target = (path.parent / match[1]).resolve()
        in_docs = target.is_relative_to(ROOT / "docs")
        if not in_docs and not target.is_relative_to(RESULTS):
            return match[0]
        uri = target.relative_to(ROOT / "docs") if in_docs else Path("results") / target.relative_to(RESULTS)
        return f'href="{os.path.relpath(uri, Path(place).parent)}.html{match[2] or ""}"'

    return LINK.sub(link, html)


def named(item: Any) -> set[str]:
    """Collect the pages that a part of the navigation names.

    Args:
        item: a page, a list of parts, or parts by title.

    Returns:
        The pages' places.
    """
    parts = item.values() if isinstance(item, dict) else item
    return {item} if isinstance(item, str) else set().union(*map(named, parts))


def filled(item: Any, patterns: dict[str, list[str]]) -> Any:
    """Put pages where the navigation has a pattern.

    Args:
        item: a part of the navigation.
        patterns: pages by pattern.

    Returns:
        The part with the pages.
    """
    if isinstance(item, dict):
        return {title: filled(part, patterns) for title, part in item.items()}
    if isinstance(item, list):
        parts = [patterns.get(part, [part]) if isinstance(part, str) else [filled(part, patterns)] for part in item]
        return [part for some in parts for part in some]
    return item


def on_config(config: Any) -> Any:
    """Complete the navigation.

    Args:
        config: mkdocs's.

    Returns:
        The config.
    """
    reports = [uri for uri in result_files() if uri.endswith(IN_NAVIGATION)]
    docs = Path(config.docs_dir)
    left = sorted({path.name for path in docs.glob("*.md")} - named(config.nav))
    config.nav = filled(config.nav, {"results/*": reports, "*": left})
    return config


def on_files(files: Any, *, config: Any) -> Any:
    """Add the files that lie outside of docs.

    Args:
        files: those of docs.
        config: mkdocs's.

    Returns:
        All files.
    """
    from mkdocs.structure.files import File

    elsewhere = {place: ROOT / name for name, place in ADDED.items()} | result_files()
    for place, path in elsewhere.items():
        if path.suffix == ".html":
            files.append(File.generated(config, place, content=linked(path.read_text(encoding="utf-8"), path, place)))
        else:
            files.append(File.generated(config, place, abs_src_path=str(path)))
    return files
