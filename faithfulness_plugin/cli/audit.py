"""`faithfulness scan --preset audit`: the public reproduction's configuration, column by column."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import typer
from pydantic import ValidationError

from faithfulness_plugin.cli.terminal import Lines, ask_for_yes, fail, show
from faithfulness_plugin.messages import one_line, say

if TYPE_CHECKING:
    from faithfulness_plugin.benchmarks.note.audit.schema import AuditRun, InertCheck


def run_audit(
    n_seeds: int | None, seed: int | None, out: Path | None, jobs: int, backend: Any, yes: bool, overwrite: bool
) -> NoReturn:
    """Trains all columns, writes result and table, and ends the command."""
    from faithfulness_plugin.benchmarks.note.audit.experiment import complete, n_parts, open_result, seconds
    from faithfulness_plugin.benchmarks.note.audit.report import caption, table, write_report
    from faithfulness_plugin.benchmarks.note.audit.schema import AuditConfig
    from faithfulness_plugin.results.result_file import RESULT_FILENAME
    from faithfulness_plugin.results.schema import ResultError
    from faithfulness_plugin.results.workers import n_workers

    out = out or Path("out/scan/audit")
    path = out / RESULT_FILENAME
    first = seed or 0
    try:
        config = AuditConfig(seeds=tuple(range(first, first + (10 if n_seeds is None else n_seeds))))
        workers = n_workers(jobs, backend)
        if overwrite or not path.exists():
            ask_for_yes(f"{n_parts(config):,} runs", workers, lambda: seconds(config, workers), yes)
        result = open_result(out, config, overwrite=overwrite)
    except ValidationError:
        fail(f"--seeds {n_seeds}: at least one seed is needed", 2)
    except (ResultError, ImportError, ConnectionError) as error:
        fail(str(error).splitlines()[0], 2)
    if result.complete:
        say(f"{path} is complete; shown again, not run again (--overwrite runs it anew)")
    total = n_parts(config)
    try:
        with Lines(total, len(result.runs) + len(result.inert), "runs") as lines:
            result = complete(
                result, out, n_jobs=workers, backend=backend, on_part=lambda part: lines.show(_line(part))
            )
        written = write_report(result, out)
    except KeyboardInterrupt:
        say("stopped; the same command without --overwrite goes on from there")
        raise typer.Exit(130) from None
    except (ValueError, RuntimeError, OSError) as error:
        fail(one_line(error), 1)
    show(f"{table(result)}\n\n{caption(result)}")
    say("written: " + ", ".join(str(p) for p in [path, *written]))
    raise typer.Exit(0)


def _line(part: "AuditRun | InertCheck") -> str:
    from faithfulness_plugin.benchmarks.note.audit.schema import AuditRun

    if isinstance(part, AuditRun):
        return f"{part.column}, seed {part.seed}: validation loss {part.validation_loss:.5f}, m {part.m:.3f}"
    return f"inert term, seed {part.seed}: largest difference of a weight {part.difference:g}"
