"""A hook of mkdocs: links between files of the repository become links between pages of the site.

Pages link to each other and to code as they lie in the repository, so that they also read well there. On the site, what
is a page or a picture is linked there; what is not (code, settings, tests) is linked in the repository where mkdocs.yml
has its address (`extra.repository`), and is plain text otherwise.
"""

import os
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
FENCED = re.compile(r"(^```.*?^```$)", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\((?!\w+:|#)([^)\s#]+)(#[^)\s]*)?\)")


def on_page_markdown(markdown: str, *, page: Any, config: Any, files: Any) -> str:
    """Rewrite the links of a page that lies in the repository.

    Args:
        markdown: the page's text.
        page: the page.
        config: mkdocs's.
        files: all files of the site.

    Returns:
        The text with links of the site.
    """
    if page.file.abs_src_path is None:
        return markdown
    on_site = {Path(f.abs_src_path).resolve(): f.src_uri for f in files if f.abs_src_path}
    source = Path(page.file.abs_src_path).resolve()
    return rewritten(markdown, source, page.file.src_uri, on_site, config.extra.get("repository"))


def rewritten(markdown: str, source: Path, uri: str, on_site: dict[Path, str], repo_url: str | None) -> str:
    """Rewrite the links of a text.

    Args:
        markdown: the text.
        source: its file in the repository.
        uri: the page's place on the site.
        on_site: places on the site by file.
        repo_url: the repository's address, where it is known.

    Returns:
        The text with links of the site. A link to nothing stays as it is, for mkdocs to complain about.
    """

    def link(match: re.Match[str]) -> str:
        mark, text, target, anchor = match[1], match[2], match[3], match[4] or ""
        path = (source.parent / target).resolve()
        if path in on_site:
            return f"{mark}[{text}]({os.path.relpath(on_site[path], os.path.dirname(uri) or '.')}{anchor})"
        if not path.exists() or not path.is_relative_to(ROOT):
            return match[0]
        if repo_url:
            kind = "tree" if path.is_dir() else "blob"
            return f"{mark}[{text}]({repo_url.rstrip('/')}/{kind}/main/{path.relative_to(ROOT).as_posix()}{anchor})"
        return text

    parts = FENCED.split(markdown)
    return "".join(part if part.startswith("```") else LINK.sub(link, part) for part in parts)
