"""Addresses on the Hugging Face hub, hf://owner/repo/path, and the files that a transcoder needs of what stands there.

huggingface_hub fetches them: its cache, progress, resumption, tokens and offline mode (HF_HUB_OFFLINE=1) apply.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from faithfulness_plugin.nearest import nearest
from faithfulness_plugin.transcoders.formats.errors import FormatError

SETTINGS = (".json", ".yaml", ".yml")
WEIGHTS = (".safetensors", ".npz", ".pt", ".pth")
LAYER = (re.compile(r"layer_(\d+)\.safetensors"), re.compile(r".*blocks\.(\d+)\..*\.pt"))
"""Names of files each of which is one layer of a set: circuit-tracer's, transcoder_circuits'."""
CROSS_LAYER = re.compile(r"W_(enc|dec)_\d+\.safetensors")
IN_FOLDER = "checkpoints/final.safetensors"
"""Where llamascopium keeps the weights of a folder."""

_ONLINE = "connect once to fetch it, or pass a local folder"


@dataclass(frozen=True)
class HubPath:
    """A repository on the hub, or a folder or file in one."""

    repo: str
    path: str = ""
    """Within the repository; empty for all of it."""
    revision: str | None = None
    """A branch, tag or commit; None for the main branch."""

    @classmethod
    def of(cls, address: str | Path) -> "HubPath":
        """Reads hf://owner/repo, hf://owner/repo/path or hf://owner/repo@revision/path. Raises FormatError for other
        text."""
        text = re.sub("^hf:/+", "", str(address)).strip("/")
        match = re.fullmatch(r"([\w.-]+/[\w.-]+)(?:@(refs/\w+/[^/]+|[^/]+))?(?:/(.+))?", text)
        if match is None:
            raise FormatError(f"{address} is no address: write hf://owner/repo/path, or hf://owner/repo@revision/path")
        return cls(match[1], match[3] or "", match[2])

    def __str__(self) -> str:
        revision = f"@{self.revision}" if self.revision else ""
        return f"hf://{self.repo}{revision}" + f"/{self.path}" * bool(self.path)

    def __truediv__(self, name: str) -> "HubPath":
        return HubPath(self.repo, f"{self.path}/{name}".strip("/"), self.revision)


@dataclass(frozen=True)
class _Contents:
    """The files of a repository, by name."""

    names: list[str]
    cached: Path | None = None
    """Where the hub cannot be reached: the folder in its cache, whose files these are."""
    reason: str = ""
    """Why it cannot be reached."""


def is_hub_path(source: str | Path) -> bool:
    """Whether this is an address that begins with hf://."""
    return str(source).startswith("hf:/")


def fetched(address: str | Path, *, layer: int | None = None) -> Path:
    """The folder or file at an address, fetched into the hub's cache.

    No more is fetched than one transcoder needs: of a folder, its weights and settings; of a set, the layer asked for.

    Args:
        address: hf://owner/repo/path or hf://owner/repo@revision/path.
        layer: which layer of a set.

    Raises:
        FormatError: the hub cannot be reached, the address does not exist, access is not granted, or it holds many
            transcoders, which are listed.
    """
    of = HubPath.of(address)
    return _fetched(of, layer)[0] / of.path


def fetched_files(address: str | Path, *, layer: int | None = None) -> list[Path]:
    """The files that `fetched` fetches, in the order of their names. Raises FormatError as it does."""
    root, names = _fetched(HubPath.of(address), layer)
    return [root / name for name in sorted(names)]


def layers_at(address: str | Path) -> list[int]:
    """The layers of the set at an address, by the names of its files. Raises FormatError where the hub, and its cache,
    have nothing there."""
    of = HubPath.of(address)
    names = [n.rpartition("/") for n in _contents(of).names]
    files = [name for folder, _, name in names if folder == of.path]
    return sorted({int(match[1]) for n in files for pattern in LAYER if (match := pattern.fullmatch(n))})


@contextmanager
def fetching(of: HubPath) -> Iterator[None]:
    """Says in one line what went wrong between here and the hub. Raises FormatError."""
    from huggingface_hub import errors

    try:
        yield
    except errors.GatedRepoError as error:
        raise FormatError(
            f"{of}: access to {of.repo} is not granted: accept its terms on https://huggingface.co/{of.repo}, and log "
            "in (hf auth login)"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise FormatError(f"{of}: {of.repo} has no revision {of.revision}: pass a branch, a tag or a commit") from error
    except errors.RepositoryNotFoundError as error:
        raise FormatError(
            f"{of}: the hub has no repository {of.repo} that can be read from here: check owner and name; for a "
            "private one log in first (hf auth login)"
        ) from error
    except errors.LocalEntryNotFoundError as error:
        raise FormatError(f"{of}: the hub cannot be reached, and not all of it is in its cache: {_ONLINE}") from error
    except errors.EntryNotFoundError as error:
        raise FormatError(f"{of}: {_said(error)}") from error
    except errors.HFValidationError as error:
        raise FormatError(f"{of} is no address: {_said(error)}") from error
    except (errors.HfHubHTTPError, errors.HTTPError, OSError) as error:  # pyright: ignore[reportPrivateImportUsage]
        raise FormatError(f"{of} could not be fetched ({_said(error)}): try again, which resumes") from error


def is_reachable(of: HubPath) -> bool:
    """Whether the hub can be reached. Raises FormatError where there is no such repository, or where nothing of it is
    in the hub's cache either."""
    return _contents(of).cached is None


def _fetched(of: HubPath, layer: int | None) -> tuple[Path, list[str]]:
    import huggingface_hub as hub

    contents = _contents(of)
    names = needed(of, contents.names, layer, contents.reason)
    if contents.cached is not None:
        return contents.cached, names
    patterns = [re.sub(r"([*?[])", r"[\1]", name) for name in names]
    with fetching(of):
        return Path(hub.snapshot_download(of.repo, revision=of.revision, allow_patterns=patterns)), names


def _contents(of: HubPath) -> _Contents:
    """What the repository holds, or what the hub's cache has of it where the hub cannot be reached.

    One request without retries: where there is no network, this fails at once.
    """
    import huggingface_hub as hub
    from huggingface_hub import constants, errors

    permanent = (errors.RepositoryNotFoundError, errors.RevisionNotFoundError)
    with fetching(of):
        try:
            revision = of.revision or constants.DEFAULT_REVISION
            info = hub.HfApi().model_info(of.repo, revision=revision, timeout=constants.HF_HUB_ETAG_TIMEOUT)
            names = [file.rfilename for file in info.siblings or []]
            return _Contents(names or [*hub.HfApi().list_repo_files(of.repo, revision=revision)])  # as mirrors have it
        except (errors.HTTPError, OSError) as error:  # pyright: ignore[reportPrivateImportUsage]
            if isinstance(error, permanent):
                raise
            offline, said = isinstance(error, errors.OfflineModeIsEnabled), _said(error)
    reason = "HF_HUB_OFFLINE is set" if offline else f"the hub cannot be reached ({said})"
    try:
        # no patterns: where this is, whether or not all of the repository is there
        cached = hub.snapshot_download(of.repo, revision=of.revision, allow_patterns=[], local_files_only=True)
    except errors.LocalEntryNotFoundError as error:
        raise FormatError(f"{of}: {reason}, and nothing of {of.repo} is in its cache: {_ONLINE}") from error
    root = Path(cached)
    return _Contents([str(file.relative_to(root)) for file in root.rglob("*") if file.is_file()], root, reason)


def needed(of: HubPath, names: list[str], layer: int | None, reason: str = "") -> list[str]:
    """Select the files of a repository that the transcoder at an address needs.

    Args:
        names: of all files of the repository, or of those in the hub's cache.
        layer: which layer of a set.
        reason: why the hub cannot be reached, where these are the names in its cache.

    Raises:
        FormatError: nothing stands there, or several transcoders, or a set of layers of which none was asked for.
    """
    if of.path in names:
        folder = of.path.rpartition("/")[0]
        beside = {folder, folder.rpartition("/")[0]}  # a checkpoint's settings stand a folder further up
        return [
            of.path,
            *(n for n in names if n.rpartition("/")[0] in beside and n.endswith(SETTINGS) and n != of.path),
        ]
    inside = {
        n.removeprefix(f"{of.path}/" if of.path else ""): n
        for n in names
        if n.startswith(f"{of.path}/" * bool(of.path))
    }
    if not inside:
        if reason:
            raise FormatError(f"{of}: {reason}, and it is not in its cache: {_ONLINE}")
        known = sorted({n for name in names if name.endswith(WEIGHTS) for n in (name, name.rpartition("/")[0])} - {""})
        raise FormatError(
            f"{of} does not exist: " + nearest(of.path, known, n=3, otherwise=_listed(known, "it holds "))
        )
    settings = [n for n in inside if "/" not in n and n.endswith(SETTINGS)]
    weights = [n for n in inside if "/" not in n and n.endswith(WEIGHTS)] or [n for n in inside if n == IN_FOLDER]
    layers = {int(match[1]): n for n in weights for pattern in LAYER if (match := pattern.fullmatch(n))}
    if len(layers) > 1:
        if layer not in layers:
            there = ", ".join(map(str, sorted(layers)))
            asked = "" if layer is None else f"no layer {layer}, but "
            raise FormatError(f"{of} is a set with {asked}the layers {there}: pass layer=, one of them")
        weights = [layers[layer]]
    elif len(weights) > 1:
        weights = _one_transcoder(of, weights)
    if not weights and (folders := sorted({n.rpartition("/")[0] for n in inside if n.endswith(WEIGHTS)})):
        folders = [n.removesuffix("/checkpoints") for n in folders]
        raise FormatError(
            f"{of} holds {len(folders)} transcoders: {_listed(folders)}: pass one of them, as {of / folders[0]}"
        )
    if reason and not weights and "config.yaml" not in settings:  # which may list weights that are elsewhere
        raise FormatError(f"{of}: {reason}, and its weights are not in its cache: {_ONLINE}")
    if not weights and not settings:
        raise FormatError(f"{of} holds no transcoder: it has {_listed(sorted(inside))}")
    return [inside[n] for n in (*settings, *weights)]


def _one_transcoder(of: HubPath, weights: list[str]) -> list[str]:
    """Return the one of several files of weights in a folder that a format knows by its name."""
    from faithfulness_plugin.transcoders.formats.registry import makes_folder

    if any(CROSS_LAYER.fullmatch(n) for n in weights):
        raise FormatError(
            f"{of} is a cross-layer transcoder ({_listed(sorted(weights), most=2)}): each of its layers writes to all "
            "later ones, and there is no one layer whose Jacobian it has"
        )
    if known := [n for n in weights if makes_folder(n)][:1]:
        return known
    raise FormatError(f"{of} holds {len(weights)} files of weights: {_listed(sorted(weights))}: pass one of them")


def _listed(names: list[str], before: str = "", most: int = 6) -> str:
    return before + ", ".join(names[:most]) + ", ..." * (len(names) > most)


def _said(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
