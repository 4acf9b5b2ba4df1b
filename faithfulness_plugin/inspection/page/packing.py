"""Arrays as one text that a page holds and its script unpacks: compressed, and no markup whatever they hold."""

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
    """Return Base64 of gzip of: the length of the header, the header (JSON: the meta, and each array's kind, shape and
    place), the arrays, one after another at multiples of 8 bytes. Raises KeyError for a kind that scripts do not
    know."""
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
    """Return Base64 of gzip of a script."""
    return base64.b64encode(gzip.compress(text.encode(), 9, mtime=0)).decode()


def quantised(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (int8, scale): values as whole parts of the largest of their last axis, within half a part of 127."""
    scale = np.abs(values).max(-1, keepdims=True, initial=0.0)
    parts = np.divide(127 * values, scale, out=np.zeros_like(values, dtype=np.float64), where=scale > 0)
    return parts.round().astype(np.int8), scale[..., 0].astype(np.float32)
