"""What a page holds of features' relations: which fire together, and partners in the layers before and behind."""

from typing import Any

import numpy as np

from faithfulness_plugin.inspection.inspection import Inspection

NONE = 2**16 - 1
"""Stands for no transcoder."""


def between_of(of: Inspection) -> dict[str, np.ndarray]:
    """Collect what is known of a transcoder's features among others.

    Args:
        of: one transcoder.

    Returns:
        Arrays for the page.
    """
    arrays: dict[str, np.ndarray] = {}
    if (together := of.together) is not None:
        arrays["together"] = together.features.astype(np.int32)
        arrays["together.phi"], arrays["together.share"] = _parts(together.phi), _parts(together.share)
        arrays["together.rates"] = together.rates.astype(np.float32)
    if (edges := of.edges) is None:
        return arrays
    for side, partners, shares in (("up", edges.up, edges.up_together), ("down", edges.down, edges.down_together)):
        arrays[f"{side}.places"] = np.where(partners.places >= 0, partners.places, NONE).astype(np.uint16)
        arrays[f"{side}.features"] = partners.features.astype(np.int32)
        for name in ("direct", "skipped", "strength"):
            arrays[f"{side}.{name}"] = getattr(partners, name).astype(np.float32)
        arrays[f"{side}.skip_share"], arrays[f"{side}.together"] = _parts(partners.skip_share), _parts(shares)
    if (found := edges.interference) is not None:
        for name in ("partners", "others", "interference"):
            arrays[f"from.{name}"] = getattr(found, name).astype(np.float32)
    return arrays


def _parts(shares: Any) -> np.ndarray:
    """Round numbers from 0 to 1 to multiples of 1/255."""
    return (shares.clip(0, 1) * 255).round().astype(np.uint8)
