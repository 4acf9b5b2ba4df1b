"""The notebooks: a hook of mkdocs that links each page to Colab, and `make notebooks`, which executes them again.

Outputs are committed with the notebooks, so that they can be read without running anything. They are what
`python docs/site/notebooks.py` wrote, in an empty folder each: no times, nothing from stderr, no paths of a machine.
"""

import re
import tempfile
from pathlib import Path
from typing import Any

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"
COLAB = "https://colab.research.google.com/github/"
SECONDS = 900
"""What one cell may take, on a machine that has other work."""
LINK = re.compile(r'href="(?!\w+:|#)([^"#]+\.(?:md|ipynb))(#[^"]*)?"')


def executed(path: Path, folder: Path) -> Any:
    """Execute a notebook.

    Args:
        path: the notebook, which is not changed.
        folder: where it runs, and leaves what it writes.

    Returns:
        The notebook with its outputs.

    Raises:
        CellExecutionError: a cell raises.
    """
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    where = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, timeout=SECONDS, kernel_name="python3", record_timing=False, resources=where).execute()
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [of for of in cell.outputs if of.get("name") != "stderr"]
    notebook.metadata = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    return notebook


def on_page_content(html: str, *, page: Any, config: Any, files: Any) -> str:
    """Make a notebook's links to files links of the site, and link it to Colab where the repository's address is known.

    Args:
        html: the page.
        page: knows its file.
        config: mkdocs's; `extra.repository` is the address on GitHub.
        files: all files of the site.

    Returns:
        The page with its links.
    """
    if not page.file.src_uri.endswith(".ipynb"):
        return html
    on_site = {Path(of.abs_src_path).resolve(): of for of in files if of.abs_src_path}

    def link(match: re.Match[str]) -> str:
        target = on_site[(Path(page.file.abs_src_path).parent / match[1]).resolve()]
        return f'href="{target.url_relative_to(page.file)}{match[2] or ""}"'

    html = LINK.sub(link, html)
    if repository := config.extra.get("repository"):
        name = repository.removeprefix("https://github.com/").strip("/")
        address = f"{COLAB}{name}/blob/main/docs/{page.file.src_uri}"
        html = f'<p><a class="md-button" href="{address}">Open in Colab</a></p>\n{html}'
    return html


def main() -> None:
    """Execute all notebooks, and write their outputs into them."""
    import nbformat

    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        with tempfile.TemporaryDirectory() as folder:
            nbformat.write(executed(path, Path(folder)), path)
        print(path.name)


if __name__ == "__main__":
    main()
