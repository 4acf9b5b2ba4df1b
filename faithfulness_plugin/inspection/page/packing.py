"""Arrays as one text that a page holds and its script unpacks: compressed, and never markup."""

import base64
import gzip
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

ALIGNED = 8
KINDS = {
    "float32": "Float32Array",
    "int8": "Int8Array",
    "uint8": "Uint8Array",
    "int32": "Int32Array",
    "uint16": "Uint16Array",
    "uint32": "Uint32Array",
}
"""numpy's names, and the names that scripts have for the same."""


def packed(meta: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> str:
    """Pack arrays into one text for a page's script.

    The text is Base64 of gzip of: the header's length, the header (JSON: the meta, and each array's kind, shape and
    offset), and the arrays at multiples of 8 bytes.

    Args:
        meta: what stands in the header beside the arrays.
        arrays: by name, of the kinds in `KINDS`.

    Returns:
        The text.

    Raises:
        KeyError: an array of a kind that scripts do not know.
    """
    places, parts, size = {}, [], 0
    for name, array in arrays.items():
        raw = np.ascontiguousarray(array).tobytes()
        places[name] = {"kind": KINDS[array.dtype.name], "shape": list(array.shape), "at": size}
        raw += bytes(-len(raw) % ALIGNED)
        parts.append(raw)
        size += len(raw)
    header = json.dumps({"meta": dict(meta), "arrays": places}, ensure_ascii=True, allow_nan=False).encode()
    header += b" " * (-len(header) % ALIGNED)
    whole = len(header).to_bytes(ALIGNED, "little") + header + b"".join(parts)
    return base64.b64encode(gzip.compress(whole, 6, mtime=0)).decode()


def compressed(text: str) -> str:
    """Compress a script.

    Args:
        text: the script.

    Returns:
        Base64 of gzip of it.
    """
    return base64.b64encode(gzip.compress(text.encode(), 9, mtime=0)).decode()


def quantised(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Round values to multiples of 1/127 of the largest in each row.

    Args:
        values: rows along the last axis.

    Returns:
        The multiples as int8, and each row's largest absolute value: values = int8 * scale / 127, within half a step.
    """
    scale = np.abs(values).max(-1, keepdims=True, initial=0.0)
    parts = np.divide(127 * values, scale, out=np.zeros_like(values, dtype=np.float64), where=scale > 0)
    return parts.round().astype(np.int8), scale[..., 0].astype(np.float32)
