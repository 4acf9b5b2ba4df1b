"""The command `faithfulness scan`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import yaml

from faithfulness_plugin.cli.terminal import Lines, ask_for_yes, fail, show
from faithfulness_plugin.messages import one_line, say

if TYPE_CHECKING:  # at run time the command that needs them imports them
    from faithfulness_plugin.benchmarks.note.scan.schema import ScanResult, Trained
    from faithfulness_plugin.benchmarks.note.scan.shard import Failed, Shard
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
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a result that is there")] = False,
) -> None:
    """Train a grid of toy transcoders at once, and write one result.

    The grid comes from a YAML file, from a preset or from --vary, and can be changed by --set, --vary and --seeds.
    Interrupted, it goes on where it stopped when called again; complete, it shows what is there.
    """
    from faithfulness_plugin.benchmarks.note.scan import presets
    from faithfulness_plugin.benchmarks.note.scan.spec import SpecError, make_spec, read_fields

    if preset == "list":
        print("\n".join(sorted([*presets.names(), AUDIT])))
        return
    if backend not in ("local", "ray"):
        fail(f"--backend {backend}: choose local or ray", 2)
    if jobs < 1 and jobs != -1:
        fail(f"--jobs {jobs}: pass the number of parts at a time, or -1 for one per core", 2)
    if shard_size < 1:
        fail(f"--shard-size {shard_size}: at least one transcoder at a time", 2)
    if preset is not None and grid is not None:
        fail("pass a YAML file or --preset, not both", 2)
    if preset == AUDIT:
        from faithfulness_plugin.cli.audit import run_audit

        if vary or settings:
            fail("--preset audit has one configuration, that of the public reproduction: leave --vary and --set out", 2)
        run_audit(seeds, seed, out, jobs, backend, yes, overwrite)
    try:
        fields: dict[str, Any] = {}
        if preset is not None:
            fields = presets.preset_fields(preset)
        elif grid is not None:
            fields = {"name": grid.stem, **read_fields(grid)}
        elif not vary:
            fail("there is nothing to scan: pass a YAML file, --preset or --vary SETTING=VALUE,VALUE", 2)
        source = str(grid or preset or "the command")
        if fields:
            make_spec(fields, source)  # as it stands, before flags change it
        _change(fields, vary or [], settings or [], seeds, seed)
        spec = make_spec(fields, source)
    except SpecError as error:
        fail(str(error), 2)
    again = "the same command" + " without --overwrite" * overwrite
    _run(spec, out or Path("out/scan") / spec.name, jobs, backend, shard_size, yes, overwrite, again)


def _change(fields: dict[str, Any], vary: list[str], settings: list[str], seeds: int | None, seed: int | None) -> None:
    """What the flags change in a file's fields: --set over base and arms alike, --vary in the grid."""
    from faithfulness_plugin.benchmarks.note.scan.spec import NAMES, SpecError, unknown

    for option, given in (("--set", settings), ("--vary", vary)):
        for text in given:
            name, equals, value = text.partition("=")
            if not equals:
                raise SpecError(f"{option} {text}: write SETTING=VALUE")
            if name not in NAMES:
                raise SpecError(f"{option} {text}: {unknown(name, NAMES)}")
            for arm in fields.get("arms", {}).values():
                arm.pop(name, None)
            if option == "--set":
                fields.get("grid", {}).pop(name, None)
                fields["base"] = {**fields.get("base", {}), name: _value(value)}
            else:
                values = [_value(part) for part in value.split(",") if part.strip()]
                fields["grid"] = {**fields.get("grid", {}), name: values}
    if seeds is not None:
        fields["seeds"] = seeds
    if seed is not None:
        fields["first_seed"] = seed


def _value(text: str) -> Any:
    """As YAML reads it, and 1e-3 as the number that people mean."""
    try:
        return float(text) if "e" in text.lower() else yaml.safe_load(text)
    except (ValueError, yaml.YAMLError):
        return text  # a word, or what the spec will name


def _run(
    spec: "ScanSpec", out: Path, jobs: int, backend: Any, shard_size: int, yes: bool, overwrite: bool, again: str
) -> None:
    from faithfulness_plugin.benchmarks.note.scan.estimate import seconds
    from faithfulness_plugin.benchmarks.note.scan.run import complete, missing, open_result
    from faithfulness_plugin.benchmarks.note.scan.shard import cost, shards
    from faithfulness_plugin.results.result_file import RESULT_FILENAME
    from faithfulness_plugin.results.schema import ResultError, read_result
    from faithfulness_plugin.results.workers import n_workers

    path = out / RESULT_FILENAME
    try:
        workers = n_workers(jobs, backend)
        there = not overwrite and path.exists()
        left = missing(open_result(out, spec)) if there else spec.points
        parts = shards(spec, left, shard_size, workers)
        if cost(spec, left) > WORTH_AN_ESTIMATE:
            ask_for_yes(f"{len(left):,} transcoders", workers, lambda: seconds(spec, parts, workers), yes)
        result = open_result(out, spec, overwrite=overwrite)
    except (ResultError, ImportError, ConnectionError) as error:
        fail(str(error).splitlines()[0], 2)
    if result.complete:
        say(f"{path} is complete; shown again, not run again (--overwrite runs it anew)")
    elif result.trained:
        say(f"{path} holds {len(result.trained)} of {spec.n_points} transcoders: going on")
    code, failed = 0, list["Failed"]()
    try:
        with Lines(spec.n_points, len(result.trained), "transcoders", cost=cost(spec, left) or None) as lines:

            def on_shard(shard: "Shard") -> None:
                failed.extend(shard.failed)
                if shard.trained:
                    points = [t.point for t in shard.trained]
                    lines.show(_line(shard.trained), len(points), cost(spec, points))

            def on_death(n: int) -> None:
                say(f"a worker died; {n} parts are started again from their last checkpoints")

            result = complete(
                result,
                out,
                n_jobs=workers,
                shard_size=shard_size,
                backend=backend,
                on_shard=on_shard,
                on_death=on_death,
            )
    except KeyboardInterrupt:
        code = 130
    except (ValueError, RuntimeError, OSError) as error:
        say(f"error: {one_line(error)}")
        code = 1
    if failed:
        point = failed[0].point
        where = ", ".join(
            [point.arm, *(f"{name} {value}" for name, value in point.values.items()), f"seed {point.seed}"]
        )
        say(f"error: {len(failed)} of {spec.n_points} transcoders failed, the first ({where}): {failed[0].why}")
        code = code or 1
    if code:
        try:
            result = read_result(path, type(result))
        except ResultError as error:
            fail(str(error), 1)
        say(f"stopped: {path} holds {len(result.trained)} of {spec.n_points} transcoders; {again} goes on from there")
    show(_table(result))
    say(f"written: {path}")
    raise typer.Exit(code)


def _line(trained: "list[Trained]") -> str:
    m = sum(t.metrics.m_fraction for t in trained) / len(trained)
    arms = ", ".join(dict.fromkeys(t.arm for t in trained))
    return f"{arms}: {len(trained)} trained, mean m / max {m:.2f}"


def _table(result: "ScanResult") -> str:
    from faithfulness_plugin.benchmarks.note.scan.report import table

    return table(result)
