"""A layer with shuffled weights: what is found of |x| there is chance."""

from operator import attrgetter

from faithfulness_plugin.benchmarks.figures.memorization_by_arm import memorization_by_arm
from faithfulness_plugin.benchmarks.note.page.section import Section, mean
from faithfulness_plugin.benchmarks.note.scan.report import METRICS, Read, seeds_table
from faithfulness_plugin.benchmarks.note.scan.schema import ScanResult

BY_CHANCE = 4
"""The largest number of |x|'s circuits that counts as recovered by chance."""
OF_ABS: Read = attrgetter("extras.abs_score.recovered")
ERROR_OF_ABS: Read = attrgetter("extras.abs_score.jacobian_error")


def section(result: ScanResult) -> Section:
    """Score transcoders of a shuffled layer against their layer and against |x|.

    Args:
        result: the result of the preset "shuffled_layer".

    Returns:
        Both scores for each arm, and whether those against |x| are chance.
    """
    arms, n_circuits = list(result.spec.arms), 2 * result.spec.settings(result.spec.points[0]).d_in
    own = METRICS["circuits recovered"]
    columns = {
        f"own circuits recovered of {n_circuits}": (own, 1),
        "m / max": (METRICS["m / max"], 3),
        "FVU": (METRICS["FVU"], 4),
        "Jacobian error": (METRICS["Jacobian error"], 4),
        "|x|'s circuits recovered": (OF_ABS, 1),
        "FVU against |x|": (attrgetter("extras.abs_score.fvu"), 2),
        "Jacobian error against |x|": (ERROR_OF_ABS, 2),
    }
    most, least_error = max(map(OF_ABS, result.trained)), min(map(ERROR_OF_ABS, result.trained))
    recovered = {arm: mean(result.of(arm), own) for arm in arms}
    shares = {arm: [own(t) / n_circuits for t in result.of(arm)] for arm in arms}
    return Section(
        "shuffled_layer",
        {
            "holds": most <= BY_CHANCE and least_error >= 1,
            "by_chance": BY_CHANCE,
            "most": most,
            "n_circuits": n_circuits,
            "least_error": least_error,
            "recovered": recovered,
            "worst": min(arms, key=recovered.__getitem__),
        },
        seeds_table(["arm"], [([arm], result.of(arm)) for arm in arms], columns),
        {
            "shuffled_layer.png": memorization_by_arm(
                shares,
                "own circuits recovered / all of them (dot: a seed, bar: the mean)",
                "all of the layer's circuits",
            )
        },
    )
