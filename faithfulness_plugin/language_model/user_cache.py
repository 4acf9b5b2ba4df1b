"""What was fetched or converted once, kept in the user's cache."""

import json
import os
import tempfile
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path

from faithfulness_plugin.atomic import put_in_place
from faithfulness_plugin.errors import UsageError
from faithfulness_plugin.extras import install

CACHE_VARIABLE = "FAITHFULNESS_CACHE"
SOURCE_FILENAME = "source.json"
INSTALL = f"{install('examples')} and then `faithfulness examples`"
"""What to do for the examples' model and text."""


def cached_folder(name: str, source: Mapping[str, str], make: Callable[[Path], None]) -> Path:
    """Return a folder in the user's cache, and make it if it is not there.

    It is made in a folder beside and then renamed, so that it is never seen half done; of several processes that make
    it at once, one's work stays. Its source.json holds `source` and the files' sizes: a folder of another source, or
    whose files are not all there, is made again.

    Args:
        name: the folder's.
        source: what it is made from.
        make: writes its files into the folder that it is given.

    Returns:
        The folder, complete.

    Raises:
        UsageError: the cache cannot be written.
    """
    base = cache()
    final = base / name
    if _complete(final, source):
        return final
    try:
        base.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=base, prefix=f".{name}.") as beside:
            unfinished = Path(beside) / name  # not `beside` itself, which only its owner may read
            unfinished.mkdir()
            make(unfinished)
            files = {path.name: path.stat().st_size for path in sorted(unfinished.iterdir())}
            for file in files:  # safetensors leaves its own to their owner, and a cache may be shared
                (unfinished / file).chmod(0o644)
            (unfinished / SOURCE_FILENAME).write_text(json.dumps({**source, "files": files}, indent=1), "utf-8")
            put_in_place(unfinished, final, Path(beside) / "before", keep=lambda: _complete(final, source))
    except OSError as error:
        if error.errno is None:  # not the system's: a library's own
            raise
        raise UsageError(unwritable_cache(error.strerror)) from error
    return final


def cache() -> Path:
    """Find the cache folder: FAITHFULNESS_CACHE, or else the user's cache folder of this platform.

    Returns:
        The folder; it may not exist yet.

    Raises:
        UsageError: platformdirs is not installed.
    """
    if chosen := os.environ.get(CACHE_VARIABLE):
        return Path(chosen).expanduser().absolute()
    if find_spec("platformdirs") is None:
        raise UsageError(f"platformdirs is not installed: {INSTALL}; or set {CACHE_VARIABLE} to a folder")
    from platformdirs import user_cache_path

    return user_cache_path("faithfulness-plugin")


def unwritable_cache(reason: str | None) -> str:
    """Explain that the cache cannot be written.

    Args:
        reason: what the system says; None where it says nothing.

    Returns:
        One line with what to do.
    """
    return (
        f"the cache {cache()} cannot be written ({reason}): free some space, or set {CACHE_VARIABLE} to another folder"
    )


def _complete(final: Path, source: Mapping[str, str]) -> bool:
    try:
        there = json.loads((final / SOURCE_FILENAME).read_text("utf-8"))
        files = there.pop("files")
        return there == source and all((final / name).stat().st_size == size for name, size in files.items())
    except (OSError, ValueError, LookupError, TypeError, AttributeError):  # whatever is wrong with it
        return False
