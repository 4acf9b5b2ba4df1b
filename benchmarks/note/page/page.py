"""The results page: Markdown with figures, and the same as one HTML file."""

from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from faithfulness_plugin.benchmarks.note.page.results import SECTIONS, read_results
from faithfulness_plugin.benchmarks.note.page.section import TEMPLATES, Section
from faithfulness_plugin.benchmarks.note.scan.schema import ScanResult
from faithfulness_plugin.benchmarks.note.scan.spec import ScanSpec
from faithfulness_plugin.results.figure_file import save_figure
from faithfulness_plugin.results.html_page import anchor, self_contained
from faithfulness_plugin.results.markdown import markdown_table
from faithfulness_plugin.results.schema import ResultError, fingerprint, write_text

TITLE = "A toy model of mechanistic (un)faithfulness, with numbers"


def write_page(results: Path, out: Path) -> list[Path]:
    """Write report.md, report.html and the figures.

    Args:
        results: the folder of results, a subfolder for each preset.
        out: the folder to write into.

    Returns:
        The paths of all files written.

    Raises:
        ResultError: no result is there, one is corrupt, of another version or incomplete, or `out` cannot be written.
    """
    found = read_results(results)
    sections = [section(name, result) for name, result in found.items()]
    text = TEMPLATES.get_template("page.md").render(
        title=TITLE,
        sections=sections,
        missing=[name for name in SECTIONS if name not in found],
        settings={name: _settings(r.spec) for name, r in found.items() if isinstance(r, ScanResult)},
    )
    write_text(out / "report.md", text)
    paths = []
    for s in sections:
        for name, figure in s.figures.items():
            save_figure(figure, out / name, source=fingerprint(found[s.name]), dpi=110)
            paths.append(out / name)
    images = {path.name: path.read_bytes() for path in paths}
    write_text(out / "report.html", self_contained(TITLE, text, images))
    return [out / "report.md", out / "report.html", *paths]


def verdicts(results: Path) -> str:
    """Tabulate every experiment's claim and whether it holds.

    Args:
        results: the folder of results, a subfolder for each preset.

    Returns:
        Markdown: a row for each result that is present.

    Raises:
        ResultError: no result is there, one is corrupt, of another version or incomplete.
    """
    rows = [
        [s.text(block) for block in ("title", "claim", "verdict")]
        for s in (section(name, result) for name, result in read_results(results).items())
    ]
    return markdown_table(["experiment", "claim", "does it hold?"], rows)


def section(name: str, result: Any) -> Section:
    """Turn a result into its section of the page.

    Args:
        name: the section's, a key of `SECTIONS`.
        result: what its experiment measured.

    Returns:
        The section.

    Raises:
        ResultError: the result's numbers allow no statement.
    """
    make: Callable[[Any], Section] = import_module(f"faithfulness_plugin.benchmarks.note.page.{name}").section
    try:
        return make(result)
    except ValueError as error:
        raise ResultError(f"{name}: its result allows no statement: {error}") from error


def _settings(spec: ScanSpec) -> str:
    """Return what the arms are, beyond the defaults."""

    def of(settings: Mapping[str, Any]) -> str:
        return ", ".join(f"{name} {value}" for name, value in settings.items()) or "the defaults"

    base = f"All: {of(spec.base)}. " if spec.base else ""
    arms = "; ".join(f"{arm}: {of(settings)}" for arm, settings in spec.arms.items())
    return f"*Settings.* {base}{arms}. {spec.seeds} seeds."


TEMPLATES.filters["anchor"] = anchor
