"""The feature files of circuit-tracer's front end, read: index.json.gz, and a layer_N.bin for each block."""

import gzip
import json
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from faithfulness_plugin.errors import FormatError

INDEX = "index.json.gz"


def read_index(folder: Path) -> dict[str, Any]:
    """Read which layers a folder has features of.

    Args:
        folder: of feature files.

    Returns:
        By the layer's number: the file's name, where each feature begins in it, and of ours whose features they are;
        empty where there is no index.

    Raises:
        FormatError: the index cannot be read.
    """
    try:
        index = json.loads(gzip.decompress((folder / INDEX).read_bytes()))
    except FileNotFoundError:
        return {}
    except (OSError, EOFError, ValueError) as error:
        raise FormatError(f"{folder / INDEX} cannot be read ({error}): choose another folder") from error
    if not isinstance(index, dict) or not all(isinstance(of, dict) for of in index.values()):
        raise FormatError(f"{folder / INDEX} is no index of feature files: choose another folder")
    return index


def read_features(folder: Path, wanted: Iterable[tuple[int, int]]) -> Iterator[bytes]:
    """Read the JSON of some features.

    Args:
        folder: of feature files.
        wanted: the number of each one's block, and its own.

    Yields:
        The JSON of each, as it stands in the file.

    Raises:
        FormatError: a feature is not there, or the index cannot be read.

    Source: `loadFeatureFromBinary` of circuit-tracer 0.5.0's front end, and `getFile` in its util.js.
    """
    index = read_index(folder)
    for layer, feature in wanted:
        of = index.get(str(layer), {"offsets": []})
        if feature >= len(of["offsets"]) - 1:
            raise FormatError(
                f"{folder} has no feature {feature} of layer {layer}: write the features of this layer too"
            )
        with (folder / of["filename"]).open("rb") as file:
            file.seek(of["offsets"][feature])
            (length,) = struct.unpack("<I", file.read(4))
            yield gzip.decompress(file.read(length))
