"""What a page holds of interventions on features."""

from typing import Any

import numpy as np

from faithfulness_plugin.inspection.feature_interventions import DONE, FeatureIntervention
from faithfulness_plugin.inspection.inspection import Inspection
from faithfulness_plugin.layers.declared_hooks import block_of

OF_BLOCKS = ("error", "cosine", "agreement", "size_layer", "size_transcoder")


def stages_of(of: Inspection) -> list[str]:
    """Name the blocks behind which effects of interventions were compared.

    Args:
        of: one transcoder.

    Returns:
        Their numbers as text; none where no feature was changed.
    """
    stages = next((each.effects["ablate"].stages for each in of.interventions if each.effects), ())
    return [stage if block_of(stage) is None else f"{block_of(stage)}" for stage in stages]


def intervened_tokens(of: Inspection) -> np.ndarray:
    """List the tokens whose log-probability moves most.

    Args:
        of: one transcoder, with interventions.

    Returns:
        Token ids [features, what was done, tokens]; -1 where there are fewer.
    """
    return _table(of, lambda moved: moved.tokens, -1).astype(np.int64)


def intervened_of(of: Inspection) -> dict[str, np.ndarray]:
    """Collect the numbers of the interventions on a transcoder's features.

    Args:
        of: one transcoder.

    Returns:
        Arrays [features, what was done, ...] for the page, NaN for what is not there; none where nothing was changed.
    """
    every = of.interventions
    if not every:
        return {}
    found: dict[str, np.ndarray] = {"features": np.array([each.feature for each in every], dtype=np.int32)}
    found["prompts"] = np.array([each.n_prompts for each in every], dtype=np.uint32)
    found["changed"] = np.array(
        [[each.effects[do].changed if do in each.effects else 0 for do in DONE] for each in every], dtype=np.uint32
    )
    for name in ("kl", "kl_spliced"):
        found[name] = np.array([[_or_nan(each, do, name) for do in DONE] for each in every], dtype=np.float32)
    for name in ("moves", "moves_spliced"):
        found[name] = _table(of, lambda moved, name=name: getattr(moved, name), np.nan).astype(np.float32)
    n_stages = len(stages_of(of))
    for name in OF_BLOCKS:
        values = [
            [getattr(each.effects[do], name) if do in each.effects else [None] * n_stages for do in DONE]
            for each in every
        ]
        found[name] = np.array(values, dtype=np.float64).reshape(len(every), len(DONE), n_stages).astype(np.float32)
    return {f"intervened.{name}": array for name, array in found.items()}


def _or_nan(each: FeatureIntervention, do: Any, name: str) -> float:
    return getattr(each.next_token[do], name) if do in each.next_token else np.nan


def _table(of: Inspection, rows: Any, missing: int | float) -> np.ndarray:
    """Lay rows of different lengths out, [features, what was done, the longest]."""
    every = [[rows(each.next_token[do]) if do in each.next_token else [] for do in DONE] for each in of.interventions]
    most = max((len(row) for each in every for row in each), default=0)
    table = np.full((len(every), len(DONE), most), missing)
    for f, each in enumerate(every):
        for d, row in enumerate(each):
            table[f, d, : len(row)] = row
    return table
