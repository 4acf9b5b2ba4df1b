"""Addresses on the Hugging Face hub, hf://owner/repo/path, and the files that a transcoder needs of what is there.

huggingface_hub fetches them: its cache, progress, resumption, tokens and offline mode (HF_HUB_OFFLINE=1) apply.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from faithfulness_plugin.hub_path import HubPath
from faithfulness_plugin.messages import listed, one_line
from faithfulness_plugin.nearest import nearest
from faithfulness_plugin.transcoders.formats.errors import FormatError

SETTINGS = (".json", ".yaml", ".yml")
WEIGHTS = (".safetensors", ".npz", ".pt", ".pth")
LAYER = (re.compile(r"layer_(\d+)\.safetensors"), re.compile(r".*blocks\.(\d+)\..*\.pt"))
"""Names of files each of which is one layer of a set: circuit-tracer's, transcoder_circuits'."""
CROSS_LAYER = re.compile(r"W_(enc|dec)_\d+\.safetensors")
IN_FOLDER = "checkpoints/final.safetensors"
"""The file in which llamascopium keeps the weights of a folder."""

_ONLINE = "connect once to fetch it, or pass a local folder"


@dataclass(frozen=True)
class _Contents:
    """The files of a repository, by name."""

    names: list[str]
    cached: Path | None = None
    """The folder in the hub's cache that these files are in, if the hub cannot be reached."""
    reason: str = ""
    """The reason why it cannot be reached."""


@dataclass(frozen=True)
class Fetched:
    """One transcoder in the hub's cache."""

    path: Path
    """The folder or file that the address names."""
    files: list[Path]
    """All files that it is read from, in the order of their names."""


def fetch(of: HubPath, *, layer: int | None = None) -> Fetched:
    """Fetch what a transcoder needs into the hub's cache.

    Args:
        of: the repository, or a folder or file in one.
        layer: which layer of a set.

    Returns:
        The files, in the cache.

    Raises:
        FormatError: the hub cannot be reached, the address does not exist, access is not granted, or it holds many
            transcoders, which are listed.
    """
    import huggingface_hub as hub

    contents = _contents(of)
    names, root = needed(of, contents.names, layer, contents.reason), contents.cached
    if root is None:
        patterns = [re.sub(r"([*?[])", r"[\1]", name) for name in names]
        with fetching(of):
            root = Path(hub.snapshot_download(of.repo, revision=of.revision, allow_patterns=patterns))
    return Fetched(root / of.path, [root / name for name in sorted(names)])


def layers_at(address: str | Path) -> list[int]:
    """List the layers of the set at an address, by the names of its files.

    Args:
        address: hf://owner/repo/path.

    Returns:
        Their numbers, in order; none where it is no set.

    Raises:
        FormatError: as `fetch`.
    """
    of = HubPath.of(address)
    names = [name.rpartition("/") for name in _contents(of).names]
    return sorted(_by_layer([name for folder, _, name in names if folder == of.path]))


def _by_layer(names: list[str]) -> dict[int, str]:
    return {int(match[1]): name for name in names for pattern in LAYER if (match := pattern.fullmatch(name))}


@contextmanager
def fetching(of: HubPath) -> Iterator[None]:
    """Turn whatever goes wrong between here and the hub into one line.

    Args:
        of: what is fetched in the block.

    Yields:
        Nothing.

    Raises:
        FormatError: the hub's library failed; the message says what to do.
    """
    from huggingface_hub import errors

    try:
        yield
    except (errors.HTTPError, errors.EntryNotFoundError, errors.HFValidationError, OSError) as error:  # pyright: ignore[reportPrivateImportUsage]
        messages = {
            errors.GatedRepoError: f": access to {of.repo} is not granted: accept its terms on "
            f"https://huggingface.co/{of.repo}, and log in (hf auth login)",
            errors.RevisionNotFoundError: f": {of.repo} has no revision {of.revision}: pass a branch, tag or commit",
            errors.RepositoryNotFoundError: f": the hub has no repository {of.repo} that can be read from here: check "
            "owner and name; for a private one log in first (hf auth login)",
            errors.LocalEntryNotFoundError: f": the hub cannot be reached, and its cache lacks some of it: {_ONLINE}",
            errors.HFValidationError: f" is no address: {one_line(error)}",
        }
        otherwise = f" could not be fetched ({one_line(error)}): try again, which resumes"
        message = next((text for kind, text in messages.items() if isinstance(error, kind)), otherwise)
        raise FormatError(f"{of}{message}") from error


def is_reachable(of: HubPath) -> bool:
    """Tell whether the hub can be reached.

    Args:
        of: a repository that is asked for.

    Returns:
        Whether it can.

    Raises:
        FormatError: there is no such repository; nothing of it is in the hub's cache either.
    """
    return _contents(of).cached is None


def _contents(of: HubPath) -> _Contents:
    """List what the repository holds, or what the hub's cache has of it where the hub cannot be reached.

    One request without retries: where there is no network, this fails at once.
    """
    import huggingface_hub as hub
    from huggingface_hub import constants, errors

    with fetching(of):
        try:
            revision = of.revision or constants.DEFAULT_REVISION
            info = hub.HfApi().model_info(of.repo, revision=revision, timeout=constants.HF_HUB_ETAG_TIMEOUT)
            names = [file.rfilename for file in info.siblings or []]
            return _Contents(names or [*hub.HfApi().list_repo_files(of.repo, revision=revision)])  # as mirrors have it
        except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError):
            raise
        except (errors.HTTPError, OSError) as error:  # pyright: ignore[reportPrivateImportUsage]
            offline = isinstance(error, errors.OfflineModeIsEnabled)
            reason = "HF_HUB_OFFLINE is set" if offline else f"the hub cannot be reached ({one_line(error)})"
    try:
        # no patterns: where this is, whether or not all of the repository is there
        root = Path(hub.snapshot_download(of.repo, revision=of.revision, allow_patterns=[], local_files_only=True))
    except errors.LocalEntryNotFoundError as error:
        raise FormatError(f"{of}: {reason}, and nothing of {of.repo} is in its cache: {_ONLINE}") from error
    return _Contents([str(file.relative_to(root)) for file in root.rglob("*") if file.is_file()], root, reason)


def needed(of: HubPath, names: list[str], layer: int | None, reason: str = "") -> list[str]:
    """Select the files of a repository that the transcoder at an address needs: its weights, of a set the layer asked
    for, and its settings.

    Args:
        of: the repository, or a folder or file in one.
        names: the names of all files of the repository, or of those in the hub's cache.
        layer: which layer of a set.
        reason: why the hub cannot be reached, where these are the names in its cache.

    Returns:
        The names of those files.

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
    prefix = f"{of.path}/" * bool(of.path)
    inside = [name.removeprefix(prefix) for name in names if name.startswith(prefix)]
    if not inside and not reason:
        known = sorted({n for name in names if name.endswith(WEIGHTS) for n in (name, name.rpartition("/")[0])} - {""})
        raise FormatError(f"{of} does not exist: {nearest(of.path, known, n=3, otherwise=f'it holds {listed(known)}')}")
    settings = [name for name in inside if "/" not in name and name.endswith(SETTINGS)]
    weights = [name for name in inside if "/" not in name and name.endswith(WEIGHTS)]
    weights = _one_transcoder(of, weights or [name for name in inside if name == IN_FOLDER], layer)
    folders = sorted(
        {name.rpartition("/")[0].removesuffix("/checkpoints") for name in inside if name.endswith(WEIGHTS)}
    )
    if not weights and folders:
        raise FormatError(
            f"{of} holds {len(folders)} transcoders: {listed(folders)}: pass one of them, as {of}/{folders[0]}"
        )
    if reason and not weights and "config.yaml" not in settings:  # which may list weights that are elsewhere
        lacks = "its weights are" if inside else "it is"
        raise FormatError(f"{of}: {reason}, and {lacks} not in its cache: {_ONLINE}")
    if not weights and not settings:
        raise FormatError(f"{of} holds no transcoder: it has {listed(sorted(inside))}")
    return [f"{prefix}{name}" for name in (*settings, *weights)]


def _one_transcoder(of: HubPath, weights: list[str], layer: int | None) -> list[str]:
    """Select the file of the layer asked for, or the one of several files that a format knows by its name."""
    from faithfulness_plugin.transcoders.formats.registry import makes_folder

    layers = _by_layer(weights)
    if len(layers) > 1:
        if layer not in layers:
            there = ", ".join(map(str, sorted(layers)))
            asked = "" if layer is None else f"no layer {layer}, but "
            raise FormatError(f"{of} is a set with {asked}the layers {there}: pass layer=, one of them")
        return [layers[layer]]
    if any(CROSS_LAYER.fullmatch(name) for name in weights):
        raise FormatError(
            f"{of} is a cross-layer transcoder ({listed(sorted(weights), most=2)}): each of its layers writes to all "
            "later ones, and there is no one layer whose Jacobian it has"
        )
    known = weights if len(weights) < 2 else [name for name in weights if makes_folder(name)][:1]
    if weights and not known:
        raise FormatError(f"{of} holds {len(weights)} files of weights: {listed(sorted(weights))}: pass one of them")
    return known
