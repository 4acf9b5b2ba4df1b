"""Feature records as tables: Parquet or JSON lines, a row a feature."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from faithfulness_plugin.atomic import new_file
from faithfulness_plugin.errors import UsageError
from faithfulness_plugin.extras import require_extra
from faithfulness_plugin.inspection.details import AFTER, BEFORE, random_firings
from faithfulness_plugin.inspection.inspection import Inspection
from faithfulness_plugin.inspection.nested_columns import NESTED, list_type, nested_columns
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
        The table, with faithfulness in it where the layer was given, and circuits where they are known.
    """
    columns: dict[str, Any] = {"feature": range(records.d_sae)} | {name: getattr(records, name) for name in NUMBERS}
    columns |= {
        "datapoint_score": records.datapoint.score,
        "concentration": records.datapoint.concentration,
        "alone": records.datapoint.alone,
        "flagged": records.flagged,
        "near_duplicates": records.near,
    }
    if (faithful := records.faithfulness) is not None:
        columns |= {
            "faithfulness": faithful.faithfulness,
            "faithfulness_low": faithful.low,
            "faithfulness_high": faithful.high,
            "moves": faithful.moves,
            "carries": faithful.carries,
            "unbacked": records.unbacked,
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
    names = [of.name for of in inspections]
    tables = [_whole_table(of, names, token_text, directions) for of in inspections]
    table = pd.concat(tables, ignore_index=True)
    with new_file(path) as unfinished:
        if path.suffix == ".parquet":
            _write_parquet(table, unfinished)
        else:
            with unfinished.open("w", encoding="utf-8") as file:
                for record in table.to_dict("records"):
                    known = {
                        name: None if value != value else value for name, value in record.items()
                    }  # NaN is no JSON
                    file.write(json.dumps(known, allow_nan=False) + "\n")


def _write_parquet(table: pd.DataFrame, path: Path) -> None:
    """Write a table whose nested columns have their types, whatever stands in them."""
    import pyarrow as pa
    from pyarrow import parquet

    nested = [name for name in NESTED if name in table]
    made = pa.Table.from_pandas(table.drop(columns=nested), preserve_index=False)
    for name in nested:
        values = [value if isinstance(value, list) else None for value in table[name]]
        made = made.append_column(name, pa.array(values, type=list_type(NESTED[name])))
    parquet.write_table(made, path)


def _whole_table(
    of: Inspection, names: Sequence[str], token_text: Callable[[int], str] | None, directions: bool
) -> pd.DataFrame:
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
        table["band_contexts"] = [
            [[contexts.around(r) for r in rows if r >= 0] for rows in of_feature]
            for of_feature in of.details.bands.rows.tolist()
        ]
        drawn = random_firings(records).rows.tolist()
        table["random_contexts"] = [[contexts.around(r) for r in rows if r >= 0] for rows in drawn]
    if token_text is not None:
        for name, tokens in _token_tables(of).items():
            table[name] = [[token_text(t) for t in row if t >= 0] for row in tokens.tolist()]
    if of.tokens is not None:
        for name in ("raised", "lowered", "read"):
            if (found := getattr(of.tokens, name)) is not None:
                table[f"tokens_{name}_by"] = found.values.tolist()
    if of.details.places is not None:
        rates, tokens = of.details.places.rates, of.details.places.tokens
        table["tokens_fired_on_rates"] = [r[t >= 0].tolist() for r, t in zip(rates, tokens, strict=True)]
        table["rate_by_position"] = of.details.places.by_position.tolist()
    table["activation_quartiles"] = of.details.bands.quartiles.tolist()
    if of.edges is not None and (found := of.edges.interference) is not None:
        for name, column in (("partners", "read_from_partners"), ("others", "read_from_others")):
            table[column] = getattr(found, name)
        table["interference"] = found.interference
    for name, column in nested_columns(of, names, token_text).items():
        table[name] = column
    if directions:
        table["reads"] = of.transcoder.W_enc.detach().T.float().cpu().numpy().tolist()
        table["writes"] = of.transcoder.W_dec.detach().float().cpu().numpy().tolist()
    return table


def _token_tables(of: Inspection) -> dict[str, np.ndarray]:
    """Return the ids of the tokens that features raise, lower, read and fire on, [d_sae, most], -1 where there are
    fewer."""
    names = ("raised", "lowered", "read")
    kinds = {} if of.tokens is None else {name: getattr(of.tokens, name) for name in names}
    found = {f"tokens_{name}": most.tokens for name, most in kinds.items() if most is not None}
    return found if of.details.places is None else found | {"tokens_fired_on": of.details.places.tokens}


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
