"""What a page holds of features in tokens: each token's text once, and tables of which."""

from collections.abc import Callable, Sequence

import numpy as np

from faithfulness_plugin.inspection.inspection import Inspection
from faithfulness_plugin.inspection.page.intervened import intervened_tokens
from faithfulness_plugin.inspection.page.packing import quantised


def words_of(
    inspections: Sequence[Inspection], token_text: Callable[[int], str] | None
) -> tuple[list[str], dict[str, np.ndarray]]:
    """Collect the tokens that features raise, lower, read and fire on.

    Args:
        inspections: of samples of text.
        token_text: gives a token id's text; None shows numbers.

    Returns:
        The text of each token once, and arrays for the page: places among these texts (one more than there are for no
        token), and values.
    """
    tables: dict[str, np.ndarray] = {}
    arrays: dict[str, np.ndarray] = {}
    for n, of in enumerate(inspections):
        for name in ("raised", "lowered", "read"):
            if of.tokens is not None and (found := getattr(of.tokens, name)) is not None:
                tables[f"{n}.{name}"] = found.tokens
                arrays[f"{n}.{name}.values"], arrays[f"{n}.{name}.scale"] = quantised(found.values)
        if of.interventions:
            tables[f"{n}.intervened.tokens"] = intervened_tokens(of)
        if (places := of.details.places) is not None:
            tables[f"{n}.fires"] = places.tokens
            arrays[f"{n}.fires.rates"] = places.rates.astype(np.float32)
            arrays[f"{n}.fires.counts"] = places.counts.astype(np.uint32)
            arrays[f"{n}.positions"], arrays[f"{n}.positions.scale"] = quantised(places.by_position)
            arrays[f"{n}.positions.first"] = places.first.astype(np.int32)
    ids = np.unique(np.concatenate([table.ravel() for table in tables.values()] or [np.zeros(0, dtype=int)]))
    ids = ids[ids >= 0]
    for name, table in tables.items():
        at = np.where(table >= 0, np.searchsorted(ids, table), len(ids))
        arrays[name] = at.astype(np.uint16 if len(ids) < 2**16 else np.uint32)
    return [f"[{i}]" if token_text is None else token_text(int(i)) for i in ids.tolist()], arrays
