"""How true attribution is with a band replaced, a line an arm."""

from faithfulness_plugin.attribution.agreement import STATISTICS
from faithfulness_plugin.benchmarks.band.schema import BandResult
from faithfulness_plugin.benchmarks.whole_model.analysis import ALL_FEATURES, INPUTS, ON
from faithfulness_plugin.benchmarks.whole_model.truth_of import sums_by_prompt
from faithfulness_plugin.results.hierarchical_bootstrap import hierarchical_bootstrap
from faithfulness_plugin.results.tables import Table

RANK, ERROR = "rank correlation", "normalised error"


def truth_table(result: BandResult) -> Table:
    """Compare predicted with measured effects of features and of inputs.

    Args:
        result: complete or partial.

    Returns:
        Rank correlations and normalised errors, with intervals over prompts and seeds.
    """
    config = result.config
    columns = [
        (f"{name}, {cause.name} on {called}", name, cause, on)
        for name in (RANK, ERROR)
        for cause in (ALL_FEATURES, INPUTS)
        for on, called in ON.items()
    ]
    rows = []
    for arm in config.arms:
        of = [record for record in result.records if record.arm == arm]
        if of:
            cells = []
            for _, name, cause, on in columns:
                sums = [sums_by_prompt(record.truth, config.truth_prompts, set(cause.kinds), on, None) for record in of]
                cells.append(hierarchical_bootstrap(sums, STATISTICS[name]))
            rows.append([arm, str(len(of)), *cells])
    caption = (
        "The truth test of attribution, with 95 % intervals over prompts and seeds: effects that are predicted with "
        "patterns, scales, gates and errors held, beside those in the model itself, "
        f"{4 * config.interventions * config.truth_prompts:,} interventions on {config.truth_prompts} prompts. "
        "Features of the band are removed or doubled at all layers that they write to, or inputs are moved towards "
        "another token; logits and features of later layers of the band respond. An error of 1 is that of predicting "
        "no effect."
    )
    return Table(["arm", "seeds", *(column[0] for column in columns)], rows, caption)
