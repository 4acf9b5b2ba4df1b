"""Feature records as tables: Parquet or JSON lines, a row a feature."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from faithfulness_plugin.atomic import new_file
from faithfulness_plugin.errors import UsageError
from faithfulness_plugin.extras import require_extra
from faithfulness_plugin.inspection.details import AFTER, BEFORE
from faithfulness_plugin.inspection.inspection import Inspection
from faithfulness_plugin.inspection.records import FeatureRecords
from faithfulness_plugin.inspection.sample import Origins
from faithfulness_plugin.inspection.token_text import TokenText, token_texts

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


def require_kind(path: Path) -> None:
    """Refuse a file name under which records cannot be written.

    Args:
        path: the file to write.

    Raises:
        UsageError: its suffix is neither .parquet nor .jsonl.
    """
    if path.suffix not in KINDS:
        raise UsageError(f"{path}: choose a name for the records that ends in {' or '.join(KINDS)}")


def feature_table(records: FeatureRecords) -> pd.DataFrame:
    """Collect the numbers of `FeatureRecords` in a table, one row a feature.

    Args:
        records: from `feature_records`.

    Returns:
        The table, with circuits in it where they are known.
    """
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
    inspections: Sequence[Inspection],
    path: Path,
    *,
    token_text: Callable[[int], str] | None = None,
    directions: bool = True,
) -> None:
    """Write one table for all inspections, with top rows (or contexts) and the directions that each feature reads and
    writes.

    Args:
        inspections: the transcoders; a column names them.
        path: .parquet or .jsonl; written whole or not at all.
        token_text: for samples of text, `TokenText(tokenizer)`, or any function from a token id to its text.
        directions: write W_enc^i and W_dec^i as well.

    Raises:
        UsageError: a path with another suffix.
        OSError: it cannot be written.
    """
    require_kind(path)
    if path.suffix == ".parquet":
        require_extra("inspect", "pyarrow")
    table = pd.concat([_whole_table(of, token_text, directions) for of in inspections], ignore_index=True)
    with new_file(path) as unfinished:
        if path.suffix == ".parquet":
            table.to_parquet(unfinished, index=False)
        else:
            with unfinished.open("w", encoding="utf-8") as file:
                file.writelines(json.dumps(record) + "\n" for record in table.to_dict("records"))


def _whole_table(of: Inspection, token_text: Callable[[int], str] | None, directions: bool) -> pd.DataFrame:
    records, sample = of.records, of.sample
    table = feature_table(records)
    table.insert(0, "transcoder", of.name)
    copies = sample.copies[sample.groups].numpy()
    top = {"rows": records.top_rows, "activations": records.top_activations, "copies": copies[records.top_rows]}
    for name, values in top.items():
        pairs = zip(values, records.top_rows, strict=True)
        table[f"top_{name}"] = [of_feature[rows >= 0].tolist() for of_feature, rows in pairs]
    if sample.origins is not None and token_text is not None:
        contexts = _Contexts(sample.origins, token_text)
        table["top_token"] = [contexts.token(rows[0]) if rows[0] >= 0 else None for rows in records.top_rows.tolist()]
        table["top_contexts"] = [[contexts.around(r) for r in rows if r >= 0] for rows in records.top_rows.tolist()]
    if directions:
        table["reads"] = of.transcoder.W_enc.detach().T.float().cpu().numpy().tolist()
        table["writes"] = of.transcoder.W_dec.detach().float().cpu().numpy().tolist()
    return table


class _Contexts:
    """The tokens at the rows of a text, and around them."""

    def __init__(self, origins: Origins, token_text: Callable[[int], str]) -> None:
        self.origins = origins
        self.parts = [token_texts(token_text, prompt) for prompt in origins.tokens.tolist()]
        self.whole_characters = isinstance(token_text, TokenText)

    def token(self, row: int) -> str:
        """Return the token at a row; where it only continues a character, the character."""
        parts, at = self._place(row)
        return parts[self._first(parts, at)]

    def around(self, row: int) -> str:
        """Return the text around a row, from a whole character on, and so with a token or two more if need be."""
        parts, at = self._place(row)
        return "".join(parts[self._first(parts, max(0, at - BEFORE)) : at + AFTER + 1])

    def _place(self, row: int) -> tuple[list[str], int]:
        return self.parts[int(self.origins.prompt[row])], int(self.origins.position[row])

    def _first(self, parts: list[str], at: int) -> int:
        """Return the place of the token that begins the character at a token."""
        while self.whole_characters and at > 0 and not parts[at]:
            at -= 1
        return at
