"""What the pages of the site show is run, not only read: blocks of Python, command lines, and messages of errors."""

import ast
import itertools
import re
import shlex
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import typer

from faithfulness_plugin import metrics
from faithfulness_plugin.cli.app import app
from faithfulness_plugin.cli.lazy import LazyGroup

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
GUIDES = sorted((DOCS / "guides").glob("*.md"))
OTHER_TRAINERS = DOCS / "guides" / "other-trainers.md"
"""Its blocks are scripts that need the other libraries: `make test-adapters` runs them."""
RUN = sorted({DOCS / "index.md", *GUIDES, *(DOCS / "concepts").glob("*.md")} - {OTHER_TRAINERS})
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
SHORTER = re.compile(r"(n_steps=|range\()\d+")


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def run(page: Path, folder: Path, monkeypatch: Any, *, as_it_stands: bool = False) -> dict[str, Any]:
    """Run a page's blocks one after the other, in a checkout that has nothing but the results."""
    folder.mkdir(exist_ok=True)
    (folder / "benchmarks").symlink_to(ROOT / "benchmarks")
    monkeypatch.chdir(folder)
    names: dict[str, Any] = {}
    with warnings.catch_warnings():  # of SAELens and of transformers, as in a script
        warnings.simplefilter("ignore")
        for block in blocks(page, "python"):
            exec(block if as_it_stands else SHORTER.sub(r"\g<1>3", block), names)
    return names


@pytest.mark.parametrize("page", [page for page in RUN if blocks(page, "python")], ids=lambda page: page.stem)
def test_the_blocks_run(page, as_installed, tmp_path, monkeypatch):
    run(page, tmp_path, monkeypatch)


@pytest.mark.parametrize("page", GUIDES, ids=lambda page: page.stem)
def test_a_guide_begins_with_a_block_that_runs(page):
    text = page.read_text(encoding="utf-8")
    assert text.index("```python") < 700
    assert len(text.splitlines()) < 100


@pytest.mark.slow
def test_the_first_page_shows_memorization_and_its_end(as_installed, tmp_path, monkeypatch, capsys):
    run(DOCS / "index.md", tmp_path, monkeypatch, as_it_stands=True)
    without, matched = (float(share) for share in re.findall(r": (\d\.\d+) of the largest", capsys.readouterr().out))
    assert without > 0.9
    assert matched < 0.02


@pytest.mark.slow
def test_the_guides_show_what_they_say(as_installed, tmp_path, monkeypatch):
    names = run(DOCS / "guides" / "inspect.md", tmp_path / "inspect", monkeypatch, as_it_stands=True)
    first, second = names["table"]["datapoint_score"].head(2)
    assert first > 0.5 > 2 * second
    assert Path("page.html").stat().st_size > 100_000
    names = run(DOCS / "guides" / "find-hooks.md", tmp_path / "find-hooks", monkeypatch, as_it_stands=True)
    layer, best = names["layer"], names["found"].best
    assert layer.hook_in in best.hook_in
    assert layer.hook_out in best.hook_out
    names = run(DOCS / "guides" / "measure.md", tmp_path / "measure", monkeypatch, as_it_stands=True)
    transcoder, layer, rows = names["transcoder"], names["layer"], names["some"]
    floor = metrics.jacobian_floor(transcoder, layer, rows).relative_error
    assert floor < metrics.jacobian_error(transcoder, layer, rows).relative_error < 1


@pytest.mark.slow
def test_the_gallery_draws_its_figures(as_installed, tmp_path, monkeypatch):
    run(DOCS / "gallery.md", tmp_path, monkeypatch)
    shown = re.findall(r"^### .*?results/([\w/]+)\.png", (DOCS / "gallery.md").read_text("utf-8"), flags=re.M | re.S)
    made_by_code = {Path(picture).name for picture in shown} - {"what_matching_buys", "text_feature"}
    assert {path.stem for path in tmp_path.glob("*.png")} == {"jacobians", "features", "plane", *made_by_code}


def test_the_scripts_for_other_trainers_are_the_ones_that_are_tested():
    scripts = (ROOT / "adapters" / "examples" / f"{name}_matched.py" for name in ("sparsify", "dictionary_learning"))
    code = [script.read_text(encoding="utf-8").split('"""\n', 1)[1].strip() for script in scripts]
    assert [block.strip() for block in blocks(OTHER_TRAINERS, "python")] == code


def command_lines() -> list[str]:
    found = []
    for page in PAGES:
        for line in "\n".join(blocks(page, "bash")).replace("\\\n", " ").splitlines():
            if (words := shlex.split(line, comments=True)) and words[0].rpartition("/")[2] == "faithfulness":
                found.append(shlex.join(itertools.takewhile(lambda word: word not in (">", "|"), words[1:])))
    return sorted(set(found))


@pytest.mark.parametrize("line", command_lines())
def test_a_command_line_has_options_that_there_are(line):
    """Parse it, and run nothing."""
    command: Any = typer.main.get_command(app)
    context: Any = None
    name, arguments = "faithfulness", shlex.split(line)
    with suppress(typer.Exit):  # by --help
        while isinstance(command, LazyGroup) and arguments:
            context = command.make_context(name, arguments, parent=context)
            name, *arguments = [*context._protected_args, *context.args]
            command = command.get_command(context, name)
        command.make_context(name, arguments, parent=context)


def test_an_option_that_there_is_not_is_found():
    with pytest.raises(Exception, match="No such option: --promts"):
        test_a_command_line_has_options_that_there_are("measure somewhere --promts 4")


def texts() -> list[str]:
    """All texts in the source, with … where a value is put in."""
    found = []
    for folder in ("faithfulness_plugin", "adapters"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found.append(node.value)
                elif isinstance(node, ast.JoinedStr):
                    parts = (part.value if isinstance(part, ast.Constant) else "…" for part in node.values)
                    found.append("".join(map(str, parts)))
    return found


def test_the_messages_are_those_of_the_source():
    messages = re.findall(r"^`(.+)`\n:", (DOCS / "errors.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    source = "\n".join(texts())
    assert len(messages) > 20
    assert not [message for message in messages if message.removesuffix("…").rstrip() not in source]
