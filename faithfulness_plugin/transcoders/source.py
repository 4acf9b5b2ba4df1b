"""Sources of transcoders: a folder or file here, an address on the hub, or a release of SAELens's list."""

from pathlib import Path, PurePosixPath

from faithfulness_plugin.transcoders.address import HubPath, fetched_files, is_hub_path
from faithfulness_plugin.transcoders.releases import is_release, release_of


def short_name(source: str | Path) -> str:
    """Return the last part of a path or address, without the name of a file that all transcoders of a format have."""
    if is_hub_path(source):
        of = HubPath.of(source)
        path = PurePosixPath(of.repo, of.path)
        return path.parent.name if path.stem == "params" else path.name
    return Path(source).name if is_release(source) else Path(source).resolve().name


def files_of(source: str | Path, *, layer: int | None = None) -> list[Path]:
    """Return the files that a transcoder is read from, in order. Those of an address are fetched.

    Args:
        layer: which layer of a set at an address.

    Raises:
        FormatError: as `address.fetched`, and `releases.release_of`.
    """
    if is_hub_path(source):
        return fetched_files(source, layer=layer)
    if is_release(source):
        return fetched_files(str(release_of(source).files))
    path = Path(source)
    return [file for file in sorted(path.rglob("*")) if file.is_file()] if path.is_dir() else [path]


def named(text: str) -> tuple[str, str]:
    """Split NAME=SOURCE into name and source; a source without a name gets its short name.

    A source may have "=" in it: what exists, begins with hf://, or has a "/" before its "=" is no NAME=SOURCE.
    """
    name, equals, source = text.partition("=")
    if equals and not (Path(text).exists() or is_hub_path(text) or "/" in name):
        return name, source
    return short_name(text), text
