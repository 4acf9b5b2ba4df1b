"""A hook of mkdocs: inspection pages that one can use, made when the site is built.

They are kept in `.venv/.live` under the digest of the source that makes them, so that only a change of it makes them
again. The page of a language model's layer needs the examples' model and text (`make examples`); without them the site
says so in its place.
"""

import hashlib
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
SOURCES = (ROOT / "faithfulness_plugin" / "inspection", ROOT / "benchmarks" / "inspection" / "live.py")
MISSING = "!!! note\n    This page was built without the examples' model: run `make examples`, and `make site` again."


def kept() -> Path:
    """Return the folder of the pages that today's source makes.

    Returns:
        The folder, which need not exist.
    """
    digest = hashlib.sha256()
    for source in SOURCES:
        for path in sorted(source.rglob("*.*")) if source.is_dir() else [source]:
            if path.suffix != ".pyc":
                digest.update(path.read_bytes())
    return ROOT / ".venv" / ".live" / digest.hexdigest()[:12]


def made(folder: Path) -> dict[str, Path]:
    """Make the pages that are missing.

    Args:
        folder: where they are kept.

    Returns:
        Pages by name, without those that cannot be made here.
    """
    from faithfulness_plugin.benchmarks.inspection.live import PAGES
    from faithfulness_plugin.errors import UsageError

    folder.mkdir(parents=True, exist_ok=True)
    for name, write in PAGES.items():
        if not (folder / f"{name}.html").exists():
            try:
                write(folder / f"{name}.html")
            except UsageError as error:
                print(f"live/{name}.html is left out: {error}", file=sys.stderr)
    return {name: path for name in PAGES if (path := folder / f"{name}.html").exists()}


def shown(markdown: str, names: set[str]) -> str:
    """Put the pages where the text has their markers.

    Args:
        markdown: the text.
        names: pages that were made.

    Returns:
        The text with each page in a frame, and a link to it.
    """
    for name in ("toy", "layer"):
        frame = (
            f'<iframe class="live" src="live/{name}.html" title="Inspection page: {name}"></iframe>\n\n'
            f'<a href="live/{name}.html">Open it alone</a>'
        )
        markdown = markdown.replace(f"<!-- live: {name} -->", frame if name in names else MISSING)
    return markdown


def on_files(files: Any, *, config: Any) -> Any:
    """Add the pages.

    Args:
        files: those of the site.
        config: mkdocs's.

    Returns:
        All files.
    """
    from mkdocs.structure.files import File

    for name, path in made(kept()).items():
        files.append(File.generated(config, f"live/{name}.html", abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, *, page: Any, config: Any, files: Any) -> str:
    """Show the pages on the one that is about them.

    Args:
        markdown: a page's text.
        page: the page.
        config: mkdocs's.
        files: all files of the site.

    Returns:
        The text.
    """
    if page.file.src_uri != "live.md":
        return markdown
    return shown(markdown, {name for name in ("toy", "layer") if files.get_file_from_path(f"live/{name}.html")})
