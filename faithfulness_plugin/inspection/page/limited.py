"""A large page shows some features in detail, and keeps the numbers of the others."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Int

from faithfulness_plugin.inspection.inspection import Inspection

OF_A_SET = 4_000
"""Features that the page of a set shows in detail, of all layers together: a page of 10 MB has room for them, and for
the numbers of ten times as many."""
EVERY = frozenset(
    (
        *("unbacked", "faithfulness", "low", "high", "score", "firing_rate", "max_activation", "carried"),
        *("jacobian_share", "masking", "circuit", "circuit_cosine", "near", "together.rates", "twin", "twin_cosine"),
    )
)
"""Numbers that are kept of every feature: those of the table, and some that others are compared with."""
NOT_BY_FEATURE = ("positions.first", "intervened.", "shown.", "skip", "projection", "residual", "live")
WHOLE = "example."
"""Whole Jacobians are made of the weights of all features, so that a page with those of some has none."""
WORDS = 3
"""Tokens that are kept of those that a feature raises."""
BITS = 11
"""Bits of a number's fraction that are kept: three digits are shown."""


def features_in_detail(inspections: Sequence[Inspection], most: int) -> list[Int[np.ndarray, " some"]] | None:
    """Choose the features that are shown in detail: of each transcoder those that were changed in the model, then those
    that its table begins with.

    Args:
        inspections: the transcoders of a page.
        most: features of all of them together.

    Returns:
        The features of each transcoder, ascending; None where the page has room for all.
    """
    if sum(of.records.d_sae for of in inspections) <= most:
        return None
    share = max(1, most // len(inspections))
    found = []
    for of in inspections:
        # [d_sae]: features that never fire last
        order = np.lexsort((-of.records.unbacked, of.records.dead))
        changed = [change.feature for change in of.interventions]
        found.append(np.sort(np.array(list(dict.fromkeys([*changed, *order.tolist()]))[: max(share, len(changed))])))
    return found


def limited(
    arrays: Mapping[str, np.ndarray], chosen: Sequence[Int[np.ndarray, " some"]]
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Keep the details of some features, and the numbers of all, to three digits.

    Args:
        arrays: the page's, those of transcoder n named "n.NAME".
        chosen: the features of each transcoder that are shown in detail.

    Returns:
        The arrays, with "n.detailed" for the features that are left in others, and the names of these others.
    """
    found: dict[str, np.ndarray] = {}
    for full, array in arrays.items():
        number, _, name = full.partition(".")
        if not number.isdigit() or name in EVERY or name.startswith(NOT_BY_FEATURE):
            found[full] = _short(array)
        elif not name.startswith(WHOLE):
            found[full] = _short(array[chosen[int(number)]])
    for n, features in enumerate(chosen):
        found[f"{n}.detailed"] = features.astype(np.int32)
        for name, most in (("top_at", 1), ("raised", WORDS)):
            if (array := arrays.get(f"{n}.{name}")) is not None:
                found[f"{n}.first.{name}"] = array[:, :most]
    names = {full.partition(".")[2] for full in arrays if full[0].isdigit()}
    cut = {name for name in names if not (name in EVERY or name.startswith((*NOT_BY_FEATURE, WHOLE)))}
    return found, sorted(cut)


def _short(array: np.ndarray) -> np.ndarray:
    """Round single precision so that it compresses: the last bits of the fraction become 0."""
    if array.dtype != np.float32:
        return array
    left = 23 - BITS
    bits = array.view(np.uint32)
    rounded = ((bits + np.uint32(1 << (left - 1))) >> np.uint32(left)) << np.uint32(left)
    return np.where(np.isfinite(array), rounded.view(np.float32), array)
