"""The results page: Markdown with figures, and the same as one HTML file."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from faithfulness_plugin.benchmarks.note.audit.schema import AuditResult
from faithfulness_plugin.benchmarks.note.page import (
    audit,
    circuits,
    coefficient,
    coefficient_needed,
    dynamics,
    emergence,
    gradient_masking,
    memorizing_layer,
    near_point,
    pareto,
    shuffled_layer,
    superposition,
)
from faithfulness_plugin.benchmarks.note.page.section import Section
from faithfulness_plugin.benchmarks.note.scan.presets import preset_fields
from faithfulness_plugin.benchmarks.note.scan.schema import ScanResult
from faithfulness_plugin.benchmarks.note.scan.spec import ScanSpec, make_spec
from faithfulness_plugin.differences import differences
from faithfulness_plugin.results.figure_file import save_figure
from faithfulness_plugin.results.html_page import anchor, self_contained
from faithfulness_plugin.results.markdown import markdown_table
from faithfulness_plugin.results.result_file import RESULT_FILENAME
from faithfulness_plugin.results.schema import Result, ResultError, fingerprint, read_result, write_text

SECTIONS: dict[str, tuple[Any, Callable[[Any], Section]]] = {
    "emergence": (ScanResult, emergence.section),
    "circuits": (ScanResult, circuits.section),
    "coefficient": (ScanResult, coefficient.section),
    "coefficient_needed": (ScanResult, coefficient_needed.section),
    "dynamics": (ScanResult, dynamics.section),
    "near_point": (ScanResult, near_point.section),
    "gradient_masking": (ScanResult, gradient_masking.section),
    "superposition": (ScanResult, superposition.section),
    "pareto": (ScanResult, pareto.section),
    "memorizing_layer": (ScanResult, memorizing_layer.section),
    "shuffled_layer": (ScanResult, shuffled_layer.section),
    "audit": (AuditResult, audit.section),
}
"""In the page's order: by the preset's name, its result's schema and what is told of it."""

TITLE = "A toy model of mechanistic (un)faithfulness, with numbers"
INTRODUCTION = (
    "C. Olah's note (Transformer Circuits, 2025) shows in figures how a transcoder of |x| comes to memorise a "
    "repeated point, and that matching the layer's Jacobian prevents it. Here is each of its experiments with seeds, "
    "intervals and controls. Unless said otherwise: d_in 16, d_sae 64, density 0.1, p with 3 ones in 5 % of the "
    "rows, tanh penalty 0.2, 4,000 steps of 256 rows, per-row sums averaged over the batch. m is memorization at p, "
    "its maximum one feature that writes all of f(p); emergence: m above a tenth of it. Effective L0 counts features "
    "that write more than 1 % of the rms output; FVU and Jacobian error are measured on clean rows, the latter over "
    "columns with x != 0."
    " Arms: Jacobian matches J v at jittered rows, secant (f(x + r v) - f(x)) / r, at the kink J v at the rows "
    "themselves; the augmentation controls match values at such points, and no derivative. Coefficients are in the "
    "layer's unit: 1 makes losing the whole Jacobian as costly as losing the whole output; they grow over the first "
    "eighth of the steps."
)


def write_page(results: Path, out: Path) -> list[Path]:
    """Writes report.md, report.html and the figures into `out`, from the result files under `results`; returns paths.

    Raises:
        ResultError: no result is there, one is corrupt, of another version or incomplete, or `out` cannot be written.
    """
    found = _read(results)
    sections = [_told(name, *of) for name, of in found.items()]
    paths = _write_figures({s.name: found[s.name][0] for s in sections}, sections, out)
    missing = [name for name in SECTIONS if name not in found]
    settings = {name: _settings(r.spec) for name, (r, _) in found.items() if isinstance(r, ScanResult)}
    text = markdown(sections, missing, settings)
    write_text(out / "report.md", text)
    images = {path.name: path.read_bytes() for path in paths}
    write_text(out / "report.html", self_contained(TITLE, text, images))
    return [out / "report.md", out / "report.html", *paths]


def verdicts(results: Path) -> str:
    """Every experiment's claim and whether it holds, as a table."""
    sections = [_told(name, *of) for name, of in _read(results).items()]
    return markdown_table(["experiment", "claim", "does it hold?"], [[s.title, s.claim, s.verdict] for s in sections])


def _read(results: Path) -> dict[str, tuple[Any, Callable[[Any], Section]]]:
    """The results that are there, each with what makes its section."""
    found = {
        name: (read_result(path, schema), section)
        for name, (schema, section) in SECTIONS.items()
        if (path := results / name / RESULT_FILENAME).exists()
    }
    if not found:
        raise ResultError(
            f"{results} holds no result of a preset ({', '.join(SECTIONS)}): run `faithfulness scan --preset NAME "
            f"--out {results}/NAME` first, or choose another --results"
        )
    for name, (result, _) in found.items():
        path = results / name / RESULT_FILENAME
        if not result.complete:
            raise ResultError(f"{path} is partial: run its command again, it goes on")
        preset = make_spec(preset_fields(name), name) if isinstance(result, ScanResult) else None
        if preset is not None and (changed := differences(_content(result.spec), _content(preset))):
            raise ResultError(
                f"{path} is of a preset that was changed ({changed}): the page tells of the presets alone"
            )
        n_seeds = result.spec.seeds if isinstance(result, ScanResult) else len(result.config.seeds)
        if n_seeds < 2:
            raise ResultError(f"{path} has one seed, and the page shows intervals: run it with 2 seeds or more")
    return found


def _content(spec: ScanSpec) -> dict[str, Any]:
    """What a preset fixes; how many seeds are run is free."""
    return spec.model_dump(include={"base", "arms", "grid", "extras", "log_every"})


def _told(name: str, result: Any, section: Callable[[Any], Section]) -> Section:
    try:
        return section(result)
    except ValueError as error:
        raise ResultError(f"{name}: its result cannot be told: {error}") from error


def markdown(sections: list[Section], missing: list[str], settings: Mapping[str, str]) -> str:
    """The page."""
    overview = "\n".join(f"| [{s.title}](#{anchor(s.title)}) | {s.verdict} |" for s in sections)
    parts = [f"# {TITLE}", INTRODUCTION, f"| experiment | does the claim hold? |\n| --- | --- |\n{overview}"]
    if missing:
        parts.append(f"Not run yet: {', '.join(missing)}.")
    return "\n\n".join([*parts, *(_section(s, settings.get(s.name, "")) for s in sections)]) + "\n"


def _section(s: Section, settings: str) -> str:
    figures = "\n\n".join(f"![{drawn.alt}]({name})" for name, drawn in s.figures.items())
    return "\n\n".join(
        part
        for part in (
            f"## {s.title}",
            f"**Claim.** {s.claim}",
            f"**What would refute it.** {s.falsifier}",
            f"**Verdict.** {s.verdict}",
            s.finding,
            settings,
            figures,
            s.table,
            f"*Read with care.* {s.caveat}",
            f"Made by `{s.command} --out benchmarks/results/toy/{s.name}`, told by `faithfulness report`.",
        )
        if part
    )


def _settings(spec: ScanSpec) -> str:
    """What the arms are, beyond the defaults."""

    def of(settings: Mapping[str, Any]) -> str:
        return ", ".join(f"{name} {value}" for name, value in settings.items()) or "the defaults"

    base = f"All: {of(spec.base)}. " if spec.base else ""
    arms = "; ".join(f"{arm}: {of(settings)}" for arm, settings in spec.arms.items())
    return f"*Settings.* {base}{arms}. {spec.seeds} seeds."


def _write_figures(results: Mapping[str, Result], sections: list[Section], out: Path) -> list[Path]:
    paths = []
    for s in sections:
        for name, drawn in s.figures.items():
            try:
                out.mkdir(parents=True, exist_ok=True)
                save_figure(drawn.figure, out / name, source=fingerprint(results[s.name]), dpi=110)
            except OSError as error:
                raise ResultError(f"{out / name} cannot be written ({error.strerror}): choose another --out") from error
            paths.append(out / name)
    return paths
