"""The commands `faithfulness bench inspection toy` and `passage`."""

from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError

from faithfulness_plugin.cli.terminal import Lines, fail, show
from faithfulness_plugin.messages import one_line, say

inspection = typer.Typer(
    help="Does the datapoint score find the features that it should?", no_args_is_help=True, rich_markup_mode=None
)


@inspection.command(epilog="Example: faithfulness bench inspection toy --seeds 10 --out out/inspection_toy")
def toy(
    out: Annotated[Path, typer.Option(help="Folder for the result")] = Path("out/inspection/toy"),
    seeds: Annotated[int, typer.Option(help="Transcoders of each condition")] = 60,
    seed: Annotated[int, typer.Option(help="The first")] = 1000,
    n_steps: Annotated[int, typer.Option(help="Optimizer steps")] = 4000,
    jobs: Annotated[int, typer.Option(help="Ensembles at a time; -1: one per core")] = -1,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a result that is there")] = False,
) -> None:
    """Score toy transcoders' features, where it is known which of them serve the repeated point.

    Interrupted, it goes on where it stopped when called again; complete, it shows what is there.
    """
    from faithfulness_plugin.benchmarks.inspection.report import toy_table
    from faithfulness_plugin.benchmarks.inspection.schema import CONDITIONS, ToyScoresConfig
    from faithfulness_plugin.benchmarks.inspection.toy import complete_toy, open_toy
    from faithfulness_plugin.results.result_file import RESULT_FILENAME
    from faithfulness_plugin.results.schema import ResultError

    if jobs < 1 and jobs != -1:
        fail(f"--jobs {jobs}: pass the number of ensembles at a time, or -1 for one per core", 2)
    try:
        config = ToyScoresConfig(n_seeds=seeds, seed=seed, n_steps=n_steps)
        result = open_toy(out, config, overwrite=overwrite)
    except ValidationError as error:
        first = error.errors()[0]
        fail(f"--{str(first['loc'][0]).replace('n_seeds', 'seeds').replace('_', '-')}: {first['msg']}", 2)
    except ResultError as error:
        fail(str(error), 2)
    path, total = out / RESULT_FILENAME, len(CONDITIONS) * seeds
    if result.complete:
        say(f"{path} is complete; shown again, not run again (--overwrite runs it anew)")
    try:
        with Lines(total, len(result.scored), "transcoders") as lines:
            result = complete_toy(
                result, out, n_jobs=jobs, on_done=lambda of: lines.show(f"{of[0].condition}", parts=len(of))
            )
    except KeyboardInterrupt:
        say(f"stopped; the same command{' without --overwrite' * overwrite} goes on from there")
        raise typer.Exit(130) from None
    except (ValueError, RuntimeError, OSError) as error:
        fail(one_line(error), 1)
    show(toy_table(result))


@inspection.command(epilog="Example: faithfulness bench inspection passage out/passage --out out/inspection_passage")
def passage(
    transcoders: Annotated[
        str, typer.Argument(help="Folder of a `bench language-model` run with a repeated passage, with its transcoders")
    ],
    out: Annotated[Path, typer.Option(help="Folder for the result")] = Path("out/inspection/passage"),
    tokens: Annotated[int, typer.Option(help="Of text, for the score")] = 20_000,
    cost_tokens: Annotated[int, typer.Option(help="Of text, for what `faithfulness inspect` costs")] = 100_000,
    memory: Annotated[float, typer.Option(help="GiB, as of `faithfulness inspect`")] = 2.0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a result that is there")] = False,
) -> None:
    """Score the features of a real layer's transcoders, some of which were trained on a repeated passage.

    First measures what `faithfulness inspect` costs on one of them, and its page in a Chromium where there is one (keep
    the machine quiet meanwhile). Interrupted, it goes on where it stopped; complete, it shows what is there.
    """
    from faithfulness_plugin.benchmarks.inspection.passage import complete_passage, open_passage
    from faithfulness_plugin.benchmarks.inspection.report import cost_table, passage_table
    from faithfulness_plugin.benchmarks.inspection.schema import PassageConfig
    from faithfulness_plugin.results.result_file import RESULT_FILENAME
    from faithfulness_plugin.results.schema import ResultError

    try:
        config = PassageConfig(transcoders=transcoders, tokens=tokens, cost_tokens=cost_tokens, memory=memory)
        result = open_passage(out, config, overwrite=overwrite)
    except ValidationError as error:
        first = error.errors()[0]
        fail(f"--{str(first['loc'][0]).replace('_', '-')}: {first['msg']}", 2)
    except ResultError as error:
        fail(str(error), 2)
    path = out / RESULT_FILENAME
    if result.complete:
        say(f"{path} is complete; shown again, not run again (--overwrite runs it anew)")
    try:
        with Lines(0, len(result.scored), "transcoders") as lines:
            result = complete_passage(
                result, out, note=lines.tell, on_scored=lambda of: lines.tell(f"{of.name}: AUC {of.auc}")
            )
    except KeyboardInterrupt:
        say(f"stopped; the same command{' without --overwrite' * overwrite} goes on from there")
        raise typer.Exit(130) from None
    except (ValueError, RuntimeError, OSError) as error:
        fail(one_line(error), 1)
    show(f"{passage_table(result)}\n{cost_table(result)}")
