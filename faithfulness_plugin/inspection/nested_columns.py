"""Columns of feature records that hold a list of structs for each feature: documents of examples, partners in other
layers, and interventions."""

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from faithfulness_plugin.inspection.between.partners import Partners
from faithfulness_plugin.inspection.feature_interventions import DONE, FeatureIntervention
from faithfulness_plugin.inspection.inspection import Inspection

if TYPE_CHECKING:  # Parquet alone needs it
    import pyarrow as pa

PLACE = {"document": "int64", "name": "string", "position": "int64"}
PARTNER = {
    "transcoder": "string",
    "feature": "int64",
    "strength": "float64",
    "direct": "float64",
    "by_skips": "float64",
    "fires_together": "float64",
}
TOKEN = {"token": "string", "moves": "float64", "moves_spliced": "float64"}
STAGE = {
    "stage": "string",
    "cosine": "float64",
    "error": "float64",
    "size_layer": "float64",
    "size_transcoder": "float64",
}
DONE_TO_A_FEATURE = {
    "do": "string",
    "prompts": "int64",
    "changed": "int64",
    "kl": "float64",
    "kl_spliced": "float64",
    "tokens": TOKEN,
    "stages": STAGE,
}
NESTED: dict[str, dict[str, Any]] = {
    "top_documents": PLACE,
    "partners_upstream": PARTNER,
    "partners_downstream": PARTNER,
    "interventions": DONE_TO_A_FEATURE,
}
"""The columns: each is a list of structs with these fields; a field that is a dict is a list of structs itself."""


def list_type(fields: dict[str, Any]) -> "pa.DataType":
    """Return the Parquet type of a column.

    Args:
        fields: one of `NESTED`.

    Returns:
        A list of structs.
    """
    import pyarrow as pa

    types = {name: list_type(of) if isinstance(of, dict) else getattr(pa, of)() for name, of in fields.items()}
    return pa.list_(pa.struct(list(types.items())))


def nested_columns(
    of: Inspection, names: Sequence[str], token_text: Callable[[int], str] | None
) -> dict[str, list[Any]]:
    """Collect what an inspection has of these columns.

    Args:
        of: one transcoder.
        names: of all transcoders that were inspected, by which partners are named.
        token_text: gives a token id's text; None shows numbers.

    Returns:
        Columns by name, an entry a feature: None where a feature was not changed. What was not computed has no column.
    """
    found: dict[str, list[Any]] = {}
    if of.sample.origins is not None and of.sample.origins.documents is not None:
        rows = of.records.top_rows.tolist()
        found["top_documents"] = [[_place(of, row) for row in of_feature if row >= 0] for of_feature in rows]
    if (edges := of.edges) is not None:
        found["partners_upstream"] = _partners(edges.up, edges.up_together, names)
        found["partners_downstream"] = _partners(edges.down, edges.down_together, names)
    if of.interventions:
        each = {change.feature: _changes(change, token_text) for change in of.interventions}
        found["interventions"] = [each.get(i) for i in range(of.records.d_sae)]
    return found


def _place(of: Inspection, row: int) -> dict[str, Any]:
    """Return the document of a row of text."""
    assert of.sample.origins is not None
    known = of.sample.origins.document(row) or (None, None, None)
    return {"document": known[0], "name": known[1] or None, "position": known[2]}


def _partners(of: Partners, together: np.ndarray, names: Sequence[str]) -> list[Any]:
    """List the partners of each feature to one side."""
    columns = (of.places, of.features, of.strength, of.direct, of.skipped, together)
    # [d_sae] of [most] of one entry each
    each = zip(*(column.tolist() for column in columns), strict=True)
    return [
        [
            dict(zip(PARTNER, (names[place], *rest), strict=True))
            for place, *rest in zip(*of_feature, strict=True)
            if place >= 0
        ]
        for of_feature in each
    ]


def _changes(of: FeatureIntervention, token_text: Callable[[int], str] | None) -> list[dict[str, Any]]:
    """List what removing and doubling a feature did; nothing for one that never fires."""
    found = []
    for do in DONE:
        if do not in of.effects:
            continue
        effect, moved = of.effects[do], of.next_token[do]
        texts = [f"[{token}]" if token_text is None else token_text(token) for token in moved.tokens.tolist()]
        tokens = zip(texts, moved.moves.tolist(), moved.moves_spliced.tolist(), strict=True)
        stages = zip(*(getattr(effect, "stages" if name == "stage" else name) for name in STAGE), strict=True)
        found.append(
            {
                "do": do,
                "prompts": of.n_prompts,
                "changed": effect.changed,
                "kl": _known(moved.kl),
                "kl_spliced": _known(moved.kl_spliced),
                "tokens": [dict(zip(TOKEN, token, strict=True)) for token in tokens],
                "stages": [dict(zip(STAGE, map(_known, stage), strict=True)) for stage in stages],
            }
        )
    return found


def _known(value: Any) -> Any:
    """Return a value, and None for NaN."""
    return None if isinstance(value, float) and math.isnan(value) else value
