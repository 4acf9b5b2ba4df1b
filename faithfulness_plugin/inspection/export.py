"""Feature records as tables: Parquet or JSON lines, a row a feature."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from faithfulness_plugin.inspection.details import AFTER, BEFORE
from faithfulness_plugin.inspection.inspection import Inspection
from faithfulness_plugin.inspection.records import FeatureRecords

NUMBERS = (
    "firing_rate",
    "mean_activation",
    "max_activation",
    "written",
    "carried",
    "jacobian_share",
    "masking",
)
KINDS = (".parquet", ".jsonl")


def feature_table(records: FeatureRecords) -> pd.DataFrame:
    """The numbers of `FeatureRecords`, a row a feature."""
    columns: dict[str, Any] = {"feature": range(records.d_sae)} | {name: getattr(records, name) for name in NUMBERS}
    columns |= {
        "datapoint_score": records.datapoint.score,
        "concentration": records.datapoint.concentration,
        "alone": records.datapoint.alone,
        "flagged": records.flagged,
    }
    if records.nearest_circuit is not None:
        columns["nearest_circuit"] = [records.circuits[k] if k >= 0 else None for k in records.nearest_circuit]
        columns["circuit_cosine"] = records.circuit_cosine
    return pd.DataFrame(columns)


def write_records(
    inspection: Inspection,
    path: Path,
    *,
    token_text: Callable[[int], str] | None = None,
    directions: bool = True,
) -> None:
    """Writes the table, with top rows (or contexts) and the directions that each feature reads and writes.

    Args:
        path: .parquet or .jsonl; written whole or not at all.
        token_text: of a token id, for samples of text.
        directions: W_enc^i and W_dec^i as well.

    Raises:
        ValueError: a path of another kind.
        OSError: it cannot be written.
    """
    if path.suffix not in KINDS:
        raise ValueError(f"{path}: records are written as {' or '.join(KINDS)}; choose a name that ends so")
    records, sample, transcoder = inspection.records, inspection.sample, inspection.transcoder
    table = feature_table(records)
    there = [rows >= 0 for rows in records.top_rows]
    table["top_rows"] = [rows[t].tolist() for rows, t in zip(records.top_rows, there, strict=True)]
    table["top_activations"] = [a[t].tolist() for a, t in zip(records.top_activations, there, strict=True)]
    copies = sample.copies[sample.groups].numpy()
    table["top_copies"] = [copies[rows[t]].tolist() for rows, t in zip(records.top_rows, there, strict=True)]
    if sample.origins is not None and token_text is not None:
        of, texts = sample.origins, {int(i): token_text(int(i)) for i in sample.origins.tokens.unique()}

        def context(row: int) -> str:
            prompt, at = int(of.prompt[row]), int(of.position[row])
            return "".join(texts[i] for i in of.tokens[prompt, max(0, at - BEFORE) : at + AFTER + 1].tolist())

        top_token = [texts[int(of.tokens[of.prompt[rows[0]], of.position[rows[0]]])] if rows[0] >= 0 else None
                     for rows in records.top_rows]  # fmt: skip
        table["top_token"] = top_token
        table["top_contexts"] = [[context(r) for r in rows if r >= 0] for rows in records.top_rows.tolist()]
    if directions:
        table["reads"] = transcoder.W_enc.detach().T.float().cpu().numpy().tolist()
        table["writes"] = transcoder.W_dec.detach().float().cpu().numpy().tolist()
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        unfinished = Path(folder) / path.name
        if path.suffix == ".parquet":
            table.to_parquet(unfinished, index=False)
        else:
            table.to_json(unfinished, orient="records", lines=True, double_precision=8)
        os.replace(unfinished, path)
