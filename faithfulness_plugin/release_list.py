"""Names in SAELens's list of pretrained autoencoders and transcoders, read without loading SAELens."""

import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from faithfulness_plugin.errors import FormatError
from faithfulness_plugin.messages import listed
from faithfulness_plugin.nearest import nearest

FILENAME = "pretrained_saes.yaml"


def listed_release(source: str | Path) -> tuple[str, str] | None:
    """Look up a transcoder in SAELens's list.

    Args:
        source: RELEASE/ID, or a folder, file or address.

    Returns:
        The release and the id; None for a folder, file or address.

    Raises:
        FormatError: with near names, where the release has no such ID, or where nothing of this name exists and a
            release is called nearly so.
    """
    name, _, sae_id = str(source).strip("/").partition("/")
    if str(source).startswith((".", "/", "~")) or Path(source).exists():
        return None
    releases = releases_by_name()
    if name not in releases:
        like_one = re.fullmatch(r"[a-zA-Z0-9][\w.-]{3,}", name)
        if like_one and (near := nearest(name, [*releases], n=3, otherwise=" ").strip()):
            raise FormatError(f"{source} does not exist, and SAELens's list has no such release: {near}")
        return None
    ids = releases[name]
    if sae_id not in ids:
        what = f"{source}: SAELens's release {name} has no {sae_id}" if sae_id else f"{name} is a release of {len(ids)}"
        otherwise = f"pass {name}/ID, with one of {listed(ids)}"
        raise FormatError(f"{what}: {nearest(sae_id, ids, n=3, otherwise=otherwise)}")
    return name, sae_id


@cache
def releases_by_name() -> dict[str, list[str]]:
    """Read the names in SAELens's list. It has 44,000 lines, of which these names are found without a YAML parser; a
    test compares them with what SAELens reads.

    Returns:
        The ids of each release.
    """
    package = find_spec("sae_lens")
    assert package is not None
    assert package.origin is not None
    found: dict[str, list[str]] = {}
    ids: list[str] = []
    text = Path(package.origin).with_name(FILENAME).read_text(encoding="utf-8")
    for match in re.finditer(r"^(?:([^\s#].*?):|\s*- id:\s*(.+?))\s*$", text, re.MULTILINE):
        if match[1]:
            ids = found[match[1].strip("\"'")] = []
        else:
            ids.append(match[2].strip("\"'"))
    return found
