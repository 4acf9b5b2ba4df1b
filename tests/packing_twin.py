"""A page's payload, taken apart in Python."""

import base64
import gzip
import json
from typing import Any

import numpy as np

from faithfulness_plugin.inspection.page.packing import KINDS


def unpacked(text: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """As the page's script does it."""
    whole = gzip.decompress(base64.b64decode(text))
    length = int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8 : 8 + length])
    names = {script: name for name, script in KINDS.items()}
    arrays = {}
    for name, of in header["arrays"].items():
        dtype, start = np.dtype(names[of["kind"]]), 8 + length + of["at"]
        assert start % 8 == 0
        count = int(np.prod(of["shape"]))
        arrays[name] = np.frombuffer(whole, dtype, count, start).reshape(of["shape"])
    return header["meta"], arrays
