"""The price list: tokens per second and memory of every arm."""

import numpy as np

from faithfulness_plugin.benchmarks.real_layers.analysis import Group, groups
from faithfulness_plugin.benchmarks.real_layers.arms import Arm
from faithfulness_plugin.benchmarks.real_layers.cells import mean_text
from faithfulness_plugin.benchmarks.real_layers.schema import RealLayersResult, RunRecord
from faithfulness_plugin.results.markdown import markdown_table


def tokens_per_second(result: RealLayersResult, run: RunRecord) -> float | None:
    """Compute the speed of a training, the store's reading included.

    Args:
        result: has the settings.
        run: the transcoder.

    Returns:
        Tokens a second; None where nothing was trained or the time is not known.
    """
    tokens = result.config.steps(run.arm) * result.config.batch_size
    return tokens / run.seconds if run.seconds and tokens else None


def time_ratio(group: Group, arm: Arm, other: Arm) -> float | None:
    """Compute how many times the time of another arm's step a step of an arm takes.

    Args:
        group: the runs.
        arm: the arm.
        other: what it is compared with.

    Returns:
        The ratio of median speeds; None where one of them is not known.
    """
    ours, theirs = (
        [speed for run in group.runs(of) if (speed := tokens_per_second(group.result, run)) is not None]
        for of in (arm, other)
    )
    return float(np.median(theirs) / np.median(ours)) if ours and theirs else None


def prices(result: RealLayersResult) -> str:
    """Format what every arm costs.

    Args:
        result: complete or partial.

    Returns:
        Markdown; "" where no time is known.
    """
    rows = []
    for group in groups(result):
        for arm in group.arms():
            runs = group.runs(arm)
            speeds = [speed for run in runs if (speed := tokens_per_second(result, run)) is not None]
            if not speeds:
                continue
            ratio = time_ratio(group, arm, arm.baseline)
            memory = [run.peak_memory / 1e9 for run in runs if run.peak_memory is not None]
            times = "-" if arm == arm.baseline or ratio is None else f"{ratio:.2f}"
            rows.append([group.name, arm.name, f"{np.median(speeds):.0f}", times, mean_text(memory, 2)])
    if not rows:
        return ""
    header = ["block", "arm", "tokens / s", "time a step, of the baseline's", "peak memory, GB"]
    where = result.environment
    return (
        f"**Prices**, all in, medians over seeds, on {where.device} ({where.machine}), torch "
        f"{where.packages['torch']}; memory with the model and held-out rows on a CPU, of tensors alone on a GPU:\n\n"
        f"{markdown_table(header, rows)}"
    )
