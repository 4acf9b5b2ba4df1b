"""The results that the page is made from, read and checked before anything that draws is loaded."""

from pathlib import Path
from typing import Any

from faithfulness_plugin.benchmarks.note.audit.schema import AuditResult
from faithfulness_plugin.benchmarks.note.scan.presets import preset
from faithfulness_plugin.benchmarks.note.scan.schema import ScanResult
from faithfulness_plugin.benchmarks.note.scan.spec import ScanSpec
from faithfulness_plugin.differences import differences
from faithfulness_plugin.results.open_or_resume import RESULT_FILENAME
from faithfulness_plugin.results.schema import ResultError, read_result

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


def read_results(results: Path) -> dict[str, Any]:
    """Read the results that are present.

    Args:
        results: the folder of results, a subfolder for each preset.

    Returns:
        The results by name, in the page's order.

    Raises:
        ResultError: there is none, or there is one that the page cannot be about: corrupt, of another version,
            incomplete, of a changed preset, or of a single seed.
    """
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
        raise ResultError(f"{path} is partial: run its command again, which resumes it")
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
