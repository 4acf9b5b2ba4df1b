"""How true attribution is within a band, a line an arm."""

import numpy as np

from faithfulness_plugin.attribution.agreement import STATISTICS
from faithfulness_plugin.benchmarks.band.schema import BandResult
from faithfulness_plugin.benchmarks.whole_model.analysis import ALL_FEATURES
from faithfulness_plugin.benchmarks.whole_model.truth_of import sums_by_prompt
from faithfulness_plugin.results.hierarchical_bootstrap import hierarchical_bootstrap
from faithfulness_plugin.results.tables import Table

RANK = "rank correlation"


def truth_table(result: BandResult) -> Table:
    """Compare predicted with measured effects of the band's features on features of its later layers.

    Effects on logits, and of inputs, go through blocks outside the band, whose MLPs the prediction holds: records have
    them, and the table leaves them out.

    Args:
        result: complete or partial.

    Returns:
        All statistics, and the rank correlation by distance, with intervals over prompts and seeds.
    """
    config, kinds = result.config, set(ALL_FEATURES.kinds)
    parts = [part for of in result.records for part in of.truth if part.kind in kinds and part.on == "features"]
    distances = sorted({part.distance for part in parts})
    columns: list[tuple[str, str, int | None]] = [(name, name, None) for name in STATISTICS]
    columns += [(f"{RANK}, {distance} or more blocks on", RANK, distance) for distance in distances]
    rows = []
    for arm in config.arms:
        of = [record for record in result.records if record.arm == arm]
        if of:
            cells = []
            for _, name, distance in columns:
                sums = [sums_by_prompt(r.truth, config.truth_prompts, kinds, "features", distance) for r in of]
                known = not np.isnan(STATISTICS[name](np.stack([each.sum(-1) for each in sums])))
                cells.append(hierarchical_bootstrap(sums, STATISTICS[name]) if known else None)
            rows.append([arm, str(len(of)), *cells])
    caption = (
        "The truth test of attribution within the band, with 95 % intervals over prompts and seeds: features are "
        "removed or doubled at all layers that they write to, and features of later layers of the band respond. "
        "Effects that are predicted with patterns, scales, gates and errors held, beside those in the model itself, "
        f"{3 * config.interventions * config.truth_prompts:,} interventions on {config.truth_prompts} prompts. An "
        "error of 1 is that of predicting no effect; signs agree by chance in .5. Distances are grouped: each column "
        "has those up to the next column's."
    )
    return Table(["arm", "seeds", *(column[0] for column in columns)], rows, caption)
