"""The command `faithfulness scan`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
import yaml

from faithfulness_plugin.cli.running import require_jobs, run_experiment
from faithfulness_plugin.cli.terminal import ask_for_yes
from faithfulness_plugin.errors import UsageError

if TYPE_CHECKING:  # at run time the command that needs it imports it
    from faithfulness_plugin.benchmarks.note.scan.spec import ScanSpec

AUDIT = "audit"
WORTH_AN_ESTIMATE = 5e11  # floating-point operations; less is done about as soon as estimated


def scan(
    grid: Annotated[Path | None, typer.Argument(help="YAML file: name, base, arms, grid, seeds, ...")] = None,
    preset: Annotated[
        str | None, typer.Option(help="A scan that comes with the package, or audit; --preset list names them")
    ] = None,
    vary: Annotated[
        list[str] | None, typer.Option(help="SETTING=VALUE,VALUE,...: vary it over these; may be repeated")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="SETTING=VALUE for all transcoders; may be repeated")
    ] = None,
    seeds: Annotated[int | None, typer.Option(help="Seeds per point [default: the file's, or 5]")] = None,
    seed: Annotated[int | None, typer.Option(help="The first seed [default: the file's, or 0]")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the result [default: out/scan/NAME]")] = None,
    jobs: Annotated[int, typer.Option(help="Parts at a time; -1: one per core, or all of the cluster")] = -1,
    backend: Annotated[str, typer.Option(help="local: this machine's cores; ray: a Ray cluster")] = "local",
    shard_size: Annotated[int, typer.Option(help="Transcoders that one process trains together at most")] = 32,
    yes: Annotated[bool, typer.Option("--yes", help="Run it even if it takes more than an hour")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing result")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON, not as tables")] = False,
) -> None:
    """Train a grid of toy transcoders at once, and write one result.

    The grid comes from a YAML file, from a preset or from --vary, and can be changed by --set, --vary and --seeds.
    Called again, it resumes an interrupted run and shows a complete one.
    """
    from faithfulness_plugin.benchmarks.note.scan import presets

    if preset == "list":
        print("\n".join(sorted([*presets.names(), AUDIT])))
        return
    if backend not in ("local", "ray"):
        raise UsageError(f"--backend {backend}: choose local or ray")
    require_jobs(jobs, "parts")
    if shard_size < 1:
        raise UsageError(f"--shard-size {shard_size}: at least one transcoder at a time")
    how: dict[str, Any] = {"n_jobs": jobs, "backend": backend, "overwrite": overwrite, "as_json": as_json}
    if preset == AUDIT:
        if vary or settings:
            raise UsageError(
                "--preset audit has one configuration, that of the public reproduction: leave --vary and --set out"
            )
        _run_audit(seeds, seed or 0, out or Path("out/scan/audit"), yes, how)
    spec = _spec(grid, preset, vary or [], settings or [], seeds, seed)
    _run_scan(spec, out or Path("out/scan") / spec.name, shard_size, yes, how)


def _spec(
    grid: Path | None, preset: str | None, vary: list[str], settings: list[str], seeds: int | None, seed: int | None
) -> "ScanSpec":
    """Make the scan of a file or a preset, changed by flags: --set over base and arms alike, --vary in the grid."""
    from faithfulness_plugin.benchmarks.note.scan import presets
    from faithfulness_plugin.benchmarks.note.scan.spec import NAMES, ScanSpec
    from faithfulness_plugin.results.settings_file import make_config, read_settings, unknown_setting

    if preset is not None and grid is not None:
        raise UsageError("pass a YAML file or --preset, not both")
    fields: dict[str, Any] = {}
    if preset is not None:
        fields = presets.preset_fields(preset)
    elif grid is not None:
        fields = read_settings(grid)
    if not fields and not vary:
        if grid is not None:
            raise UsageError(f"{grid} is empty: give at least a grid, as in `grid: {{repeat_frac: [0.02, 0.05]}}`")
        raise UsageError("there is nothing to scan: pass a YAML file, --preset or --vary SETTING=VALUE,VALUE")
    if grid is not None:
        fields = {"name": grid.stem, **fields}
    source = str(grid or preset or "the command")
    make_config(fields, source, ScanSpec)  # as it stands, before flags change it
    for option, given in (("--set", settings), ("--vary", vary)):
        for text in given:
            name, equals, value = text.partition("=")
            if not equals:
                raise UsageError(f"{option} {text}: write SETTING=VALUE")
            if name not in NAMES:
                raise UsageError(f"{option} {text}: {unknown_setting(name, NAMES)}")
            for arm in fields.get("arms", {}).values():
                arm.pop(name, None)
            if option == "--set":
                fields.get("grid", {}).pop(name, None)
                fields["base"] = {**fields.get("base", {}), name: _value(value)}
            else:
                values = [_value(part) for part in value.split(",") if part.strip()]
                fields["grid"] = {**fields.get("grid", {}), name: values}
    changed = {"seeds": seeds, "first_seed": seed}
    fields |= {name: value for name, value in changed.items() if value is not None}
    return make_config(fields, source, ScanSpec)


def _value(text: str) -> Any:
    """Read a value as YAML does, and 1e-3 as the number that people mean."""
    try:
        return float(text) if "e" in text.lower() else yaml.safe_load(text)
    except (ValueError, yaml.YAMLError):
        return text  # a word, or what the spec will name


def _run_scan(spec: "ScanSpec", out: Path, shard_size: int, yes: bool, how: dict[str, Any]) -> NoReturn:
    from faithfulness_plugin.benchmarks.note.scan.schema import ScanResult
    from faithfulness_plugin.results.open_or_resume import require_resumable

    require_resumable(out, ScanResult, spec.model_dump(exclude={"name"}), overwrite=how["overwrite"], may_grow="seeds")

    from faithfulness_plugin.benchmarks.note.scan.estimate import seconds
    from faithfulness_plugin.benchmarks.note.scan.experiment import Scan, ScanOptions, missing
    from faithfulness_plugin.results.experiment import open_result
    from faithfulness_plugin.results.workers import n_workers

    scan, workers = Scan(), n_workers(how["n_jobs"], how["backend"])
    result = open_result(scan, spec, out, how["overwrite"])
    if scan.work_left(result) > WORTH_AN_ESTIMATE:
        left = missing(result)
        ask_for_yes(f"{len(left):,} transcoders", workers, lambda: seconds(spec, left, shard_size, workers), yes)
    run_experiment(scan, spec, out, options=ScanOptions(shard_size=shard_size), **how)


def _run_audit(n_seeds: int | None, seed: int, out: Path, yes: bool, how: dict[str, Any]) -> NoReturn:
    from faithfulness_plugin.benchmarks.note.audit.schema import AuditConfig, AuditResult
    from faithfulness_plugin.cli.options import made
    from faithfulness_plugin.results.open_or_resume import require_resumable

    if n_seeds is not None and n_seeds < 1:
        raise UsageError(f"--seeds {n_seeds}: at least one seed is needed")
    config = made(AuditConfig, seeds=tuple(range(seed, seed + (10 if n_seeds is None else n_seeds))))
    require_resumable(out, AuditResult, config.model_dump(), overwrite=how["overwrite"])

    from faithfulness_plugin.benchmarks.note.audit.experiment import Audit, seconds
    from faithfulness_plugin.results.experiment import open_result
    from faithfulness_plugin.results.workers import n_workers

    audit, workers = Audit(), n_workers(how["n_jobs"], how["backend"])
    done, total = audit.progress(open_result(audit, config, out, how["overwrite"]))
    if not done:
        ask_for_yes(f"{total:,} runs", workers, lambda: seconds(config, workers), yes)
    run_experiment(audit, config, out, **how)
