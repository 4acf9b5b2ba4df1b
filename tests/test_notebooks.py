"""The notebooks of the site: executed in the slow part, and committed with outputs that a reader can use."""

import importlib.util
import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

DOCS = Path(__file__).resolve().parent.parent / "docs"
NOTEBOOKS = sorted((DOCS / "notebooks").glob("*.ipynb"))
NAMED = {path.stem: path for path in NOTEBOOKS}


def hook() -> Any:
    spec = importlib.util.spec_from_file_location("docs_site_notebooks", DOCS / "site" / "notebooks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def cells(path: Path, kind: str) -> list[dict[str, Any]]:
    return [cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == kind]


def test_there_are_six():
    assert set(NAMED) == {"toy", "training-loop", "saelens", "is-it-faithful", "attribution", "your-method"}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_was_executed_whole_and_says_nothing_of_the_machine(path):
    code = cells(path, "code")
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    outputs = [of for cell in code for of in cell["outputs"]]
    assert outputs
    assert not [of for of in outputs if of["output_type"] == "error" or of.get("name") == "stderr"]
    assert not re.findall(r"/(?:root|home|work|tmp|Users)/", json.dumps(outputs))
    assert path.stat().st_size < 400_000


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_begins_with_a_title_and_what_colab_installs(path):
    first, install = json.loads(path.read_text(encoding="utf-8"))["cells"][:2]
    assert "".join(first["source"]).startswith("# ")
    assert "pip install --quiet" in "".join(install["source"])


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_its_links_lead_somewhere(path):
    text = "\n".join("".join(cell["source"]) for cell in cells(path, "markdown"))
    targets = re.findall(r"\]\((?!\w+:)([^)\s#]+)", text)
    assert targets
    assert not [target for target in targets if not (path.parent / target).exists()]


def test_links_to_files_become_links_of_the_site_and_colab_has_the_address():
    def file(name: str) -> Any:
        place = name.replace(".md", ".html").replace(".ipynb", ".html")
        return SimpleNamespace(src_uri=name, abs_src_path=str(DOCS / name), url_relative_to=lambda other: f"to/{place}")

    page = SimpleNamespace(file=file("notebooks/toy.ipynb"))
    files = [file("glossary.md"), file("notebooks/attribution.ipynb"), page.file]
    html = '<a href="../glossary.md#scores">a</a> <a href="attribution.ipynb">b</a> <a href="https://e.org/x.md">c</a>'
    expected = '<a href="to/glossary.html#scores">a</a> <a href="to/notebooks/attribution.html">b</a> '
    expected += '<a href="https://e.org/x.md">c</a>'
    made = hook().on_page_content
    assert made(html, page=page, config=SimpleNamespace(extra={"repository": None}), files=files) == expected
    known = SimpleNamespace(extra={"repository": "https://github.com/owner/name/"})
    assert "github/owner/name/blob/main/docs/notebooks/toy.ipynb" in made(html, page=page, config=known, files=files)
    other = SimpleNamespace(file=file("glossary.md"))
    assert made(html, page=other, config=known, files=files) == html


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the kernel's connection
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs(path, tmp_path):
    pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    before = [cell["source"] for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]]
    notebook = hook().executed(path, tmp_path)
    assert [cell["source"] for cell in notebook.cells] == ["".join(source) for source in before]
    assert all(cell.execution_count for cell in notebook.cells if cell.cell_type == "code")
