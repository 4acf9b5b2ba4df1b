"""The command `faithfulness reproduce`."""

from pathlib import Path
from typing import Annotated

import typer

QUICK_STEPS = 1200


def reproduce(
    out: Annotated[Path | None, typer.Option(help="Folder for the result [default: out/reproduce]")] = None,
    seeds: Annotated[int | None, typer.Option(help="Seeds per arm [default: 10]")] = None,
    seed: Annotated[int, typer.Option(help="The first seed")] = 0,
    quick: Annotated[bool, typer.Option("--quick", help=f"One seed and {QUICK_STEPS} steps, for a first look")] = False,
    d_in: Annotated[int, typer.Option(help="Width of the layer y = |x|")] = 16,
    d_sae: Annotated[int, typer.Option(help="Features of the transcoder")] = 64,
    density: Annotated[float, typer.Option(help="Probability that a coordinate is not 0")] = 0.1,
    repeat_frac: Annotated[float, typer.Option(help="Probability that a row is the point p")] = 0.05,
    n_ones: Annotated[int, typer.Option(help="Ones in p")] = 3,
    architecture: Annotated[
        str, typer.Option(help="How the transcoder is kept sparse: standard, topk, batch_topk or jumprelu")
    ] = "standard",
    sparsity_coefficient: Annotated[float, typer.Option(help="standard: weight of the tanh penalty")] = 0.2,
    k: Annotated[float, typer.Option(help="topk, batch_topk: features active per row")] = 2.0,
    l0_coefficient: Annotated[float, typer.Option(help="jumprelu: weight of the L0 penalty")] = 0.1,
    n_steps: Annotated[int | None, typer.Option(help="Optimizer steps [default: 4000]")] = None,
    jobs: Annotated[
        int | None, typer.Option(help="Runs at a time; -1: one per core [default: -1, with --quick 1]")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing result")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON, not as tables")] = False,
) -> None:
    """Run the absolute-value experiment: table, figures, result file.

    Trains transcoders of y = |x| without and with a repeated point, with Jacobian matching and with its control.
    Called again, it resumes an interrupted run and shows a complete one.
    """
    from faithfulness_plugin.benchmarks.note.absolute_value.schema import AbsoluteValueConfig, AbsoluteValueResult
    from faithfulness_plugin.cli.options import made
    from faithfulness_plugin.cli.running import require_jobs, run_experiment
    from faithfulness_plugin.errors import UsageError
    from faithfulness_plugin.results.open_or_resume import require_resumable

    n_seeds = seeds if seeds is not None else (1 if quick else 10)
    if n_seeds < 1:
        raise UsageError(f"--seeds {n_seeds}: at least one seed is needed")
    if seed < 0:
        raise UsageError(f"--seed: Input should be greater than or equal to 0, not {seed}")
    config = made(
        AbsoluteValueConfig,
        d_in=d_in,
        d_sae=d_sae,
        density=density,
        repeat_frac=repeat_frac,
        n_ones=n_ones,
        architecture=architecture,
        sparsity_coefficient=sparsity_coefficient,
        k=k,
        l0_coefficient=l0_coefficient,
        n_steps=n_steps if n_steps is not None else (QUICK_STEPS if quick else 4000),
        seeds=tuple(range(seed, seed + n_seeds)),
    )
    n_jobs = jobs if jobs is not None else (1 if quick else -1)
    require_jobs(n_jobs, "runs")
    out = out or Path("out/quick" if quick else "out/reproduce")
    require_resumable(out, AbsoluteValueResult, config.model_dump(), overwrite=overwrite, may_grow="seeds")

    from faithfulness_plugin.benchmarks.note.absolute_value.experiment import AbsoluteValue

    run_experiment(AbsoluteValue(), config, out, overwrite=overwrite, as_json=as_json, n_jobs=n_jobs)
