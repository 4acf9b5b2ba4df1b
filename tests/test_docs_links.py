"""Links of README, docs and results lead to what is there, anchors included."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "benchmarks" / "results").rglob("*.md")),
]
LINK = re.compile(r"\]\((?!\w+:)([^)\s]+)\)")


def prose(page: Path) -> str:
    return re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)


def headings(page: Path) -> set[str]:
    """The headings of a page as links name them: in lower case, with hyphens for spaces."""
    found = re.findall(r"^#+ (.+)$", prose(page), flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in found}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page):
    wrong = []
    for target in LINK.findall(prose(page)):
        name, _, place = target.partition("#")
        there = page.parent / name if name else page
        if not there.exists() or (place and place not in headings(there)):
            wrong.append(target)
    assert not wrong
