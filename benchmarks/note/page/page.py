"""The results page: Markdown with figures, and the same as one HTML file."""

from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from faithfulness_plugin.benchmarks.note.audit.schema import AuditResult
from faithfulness_plugin.benchmarks.note.page.section import TEMPLATES, Section
from faithfulness_plugin.benchmarks.note.scan.presets import preset
from faithfulness_plugin.benchmarks.note.scan.schema import ScanResult
from faithfulness_plugin.benchmarks.note.scan.spec import ScanSpec
from faithfulness_plugin.differences import differences
from faithfulness_plugin.results.figure_file import save_figure
from faithfulness_plugin.results.html_page import anchor, self_contained
from faithfulness_plugin.results.markdown import markdown_table
from faithfulness_plugin.results.open_or_resume import RESULT_FILENAME
from faithfulness_plugin.results.schema import ResultError, fingerprint, read_result, write_text

TITLE = "A toy model of mechanistic (un)faithfulness, with numbers"
SECTIONS: dict[str, type[Any]] = {
    "emergence": ScanResult,
    "circuits": ScanResult,
    "coefficient": ScanResult,
    "coefficient_needed": ScanResult,
    "dynamics": ScanResult,
    "near_point": ScanResult,
    "gradient_masking": ScanResult,
    "superposition": ScanResult,
    "pareto": ScanResult,
    "memorizing_layer": ScanResult,
    "shuffled_layer": ScanResult,
    "audit": AuditResult,
}
"""In the page's order: the preset's name, which is the section's module and template too, and its result's schema."""


def write_page(results: Path, out: Path) -> list[Path]:
    """Write report.md, report.html and the figures into `out`, from the result files under `results`; return paths.

    Raises:
        ResultError: no result is there, one is corrupt, of another version or incomplete, or `out` cannot be written.
    """
    found = _read(results)
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
    """Return a table of every experiment's claim and whether it holds."""
    rows = [
        [s.text(block) for block in ("title", "claim", "verdict")]
        for s in (section(name, result) for name, result in _read(results).items())
    ]
    return markdown_table(["experiment", "claim", "does it hold?"], rows)


def section(name: str, result: Any) -> Section:
    """Return what a result says. Raises ResultError where its numbers allow no statement."""
    make: Callable[[Any], Section] = import_module(f"faithfulness_plugin.benchmarks.note.page.{name}").section
    try:
        return make(result)
    except ValueError as error:
        raise ResultError(f"{name}: its result allows no statement: {error}") from error


def _read(results: Path) -> dict[str, Any]:
    """Return the results that are present."""
    paths = {name: results / name / RESULT_FILENAME for name in SECTIONS}
    found = {name: read_result(path, SECTIONS[name]) for name, path in paths.items() if path.exists()}
    if not found:
        raise ResultError(
            f"{results} holds no result of a preset ({', '.join(SECTIONS)}): run `faithfulness scan --preset NAME "
            f"--out {results}/NAME` first, or choose another --results"
        )
    for name, result in found.items():
        _check(name, paths[name], result)
    return found


def _check(name: str, path: Path, result: Any) -> None:
    if not result.complete:
        raise ResultError(f"{path} is partial: run its command again, it resumes")
    if isinstance(result, ScanResult):
        n_seeds = result.spec.seeds
        if changed := differences(_content(result.spec), _content(preset(name))):
            raise ResultError(
                f"{path} is of a preset that was changed ({changed}): the page is about the presets alone"
            )
    else:
        n_seeds = len(result.config.seeds)
    if n_seeds < 2:
        raise ResultError(f"{path} has one seed, and the page shows intervals: run it with 2 seeds or more")


def _content(spec: ScanSpec) -> dict[str, Any]:
    """Return what a preset fixes; how many seeds are run is free."""
    return spec.model_dump(include={"base", "arms", "grid", "extras", "log_every"})


def _settings(spec: ScanSpec) -> str:
    """Return what the arms are, beyond the defaults."""

    def of(settings: Mapping[str, Any]) -> str:
        return ", ".join(f"{name} {value}" for name, value in settings.items()) or "the defaults"

    base = f"All: {of(spec.base)}. " if spec.base else ""
    arms = "; ".join(f"{arm}: {of(settings)}" for arm, settings in spec.arms.items())
    return f"*Settings.* {base}{arms}. {spec.seeds} seeds."


TEMPLATES.filters["anchor"] = anchor
