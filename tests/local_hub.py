"""A Hugging Face hub on this machine: the routes that huggingface_hub asks, over HTTP, from folders.

Only the network's far end is made up: huggingface_hub and SAELens run as they are.
"""

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from huggingface_hub import constants
from published_files import Published

NOWHERE = "http://127.0.0.1:9"
"""Nobody listens there: as it is without a network."""


@dataclass
class LocalHub:
    """The repositories are the folders root/OWNER/REPO; another revision of one is root/OWNER/REPO@REVISION."""

    root: Path
    cache: Path
    monkeypatch: pytest.MonkeyPatch
    endpoint: str = ""
    lists_siblings: bool = True
    """Whether what it says of a repository includes the names of its files."""
    gated: set[str] = field(default_factory=set)
    head: dict[str, str] = field(default_factory=dict)
    """The state of a repository's main branch, where it changes: its commit depends on it."""
    requests: list[str] = field(default_factory=list)
    """"METHOD path" of each, in order."""

    @property
    def fetched(self) -> list[str]:
        """The files that were downloaded, by their paths in the repositories."""
        return [match[1] for r in self.requests if (match := re.match(r"GET /[^/]+/[^/]+/resolve/[^/]+/(.+)", r))]

    def commit(self, folder: Path) -> str:
        """The 40 hex digits of a repository's branch."""
        repo = f"{folder.parent.name}/{folder.name}"
        return hashlib.sha1(f"{repo} {self.head.get(repo, '')}".encode()).hexdigest()

    def connect(self, endpoint: str) -> None:
        """Make it the hub, for this test."""
        self.monkeypatch.setattr(constants, "ENDPOINT", endpoint)
        template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        self.monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)

    def reconnect(self) -> None:
        """Undo `disconnect`."""
        self.connect(self.endpoint)

    def disconnect(self) -> None:
        """Act as if there were no network."""
        self.connect(NOWHERE)


@contextmanager
def local_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalHub]:
    """An empty hub, and an empty cache."""
    hub = LocalHub(tmp_path / "hub", tmp_path / "cache", monkeypatch)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(hub.cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    hub.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    hub.connect(hub.endpoint)
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _handler(hub: LocalHub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            hub.requests.append(f"{self.command} {self.path}")
            path = unquote(urlsplit(self.path).path)
            if match := re.fullmatch(r"/api/models/([^/]+/[^/]+?)(?:/(revision|tree)/(.+))?", path):
                self.api(match[1], match[2], match[3] or "main")
            elif match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
                self.file(match[1], match[2], match[3])
            else:
                self.answer(404)

        do_HEAD = do_GET

        def api(self, repo: str, kind: str | None, revision: str) -> None:
            if (folder := self.folder(repo, revision)) is None:
                return
            files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
            names = [file.relative_to(folder).as_posix() for file in files]
            if kind == "tree":
                sizes = [file.stat().st_size for file in files]
                tree = [
                    {"type": "file", "path": name, "size": size, "oid": hashlib.sha1(name.encode()).hexdigest()}
                    for name, size in zip(names, sizes, strict=True)
                ]
                self.answer(200, json.dumps(tree).encode())
            else:
                siblings = [{"rfilename": name} for name in names if hub.lists_siblings]
                info = {"id": repo, "modelId": repo, "sha": hub.commit(folder), "siblings": siblings, "tags": []}
                self.answer(200, json.dumps(info).encode())

        def file(self, repo: str, revision: str, name: str) -> None:
            if (folder := self.folder(repo, revision)) is None:
                return
            headers = {"X-Repo-Commit": hub.commit(folder)}
            if repo in hub.gated:
                self.answer(403, headers={**headers, "X-Error-Code": "GatedRepo"})
            elif not (folder / name).is_file():
                self.answer(404, headers={**headers, "X-Error-Code": "EntryNotFound"})
            else:
                content = (folder / name).read_bytes()
                headers["ETag"] = f'"{hashlib.sha1(content).hexdigest()}"'
                if part := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
                    start, end = int(part[1]), min(int(part[2] or len(content)), len(content) - 1)
                    headers["Content-Range"] = f"bytes {start}-{end}/{len(content)}"
                    self.answer(206, content[start : end + 1], headers)
                else:
                    self.answer(200, content, headers)

        def folder(self, repo: str, revision: str) -> Path | None:
            """Return the folder of a repository's branch or commit. Answer with an error where there is none."""
            if not (hub.root / repo).is_dir():
                self.answer(401, headers={"X-Error-Code": "RepoNotFound"})
                return None
            there = [hub.root / repo, *(hub.root / repo).parent.glob(f"{(hub.root / repo).name}@*")]
            for folder in there:
                if revision in (hub.commit(folder), folder.name.partition("@")[2] or "main"):
                    return folder
            self.answer(404, headers={"X-Error-Code": "RevisionNotFound"})
            return None

        def answer(self, status: int, content: bytes = b"", headers: dict[str, str] | None = None) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            pass

    return Handler


def publish(hub: LocalHub, place: str, it: Published) -> Path:
    """Write a published transcoder into a folder of a repository, beside a README."""
    folder = hub.root / place
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "README.md").write_text("read me")
    return it.write(folder, it)
