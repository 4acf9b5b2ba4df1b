"""One loader for the files of every library that trains transcoders."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from sae_lens.saes.transcoder import Transcoder

from faithfulness_plugin.display import short_repr
from faithfulness_plugin.errors import UsageError
from faithfulness_plugin.hub_path import HubPath, is_hub_path
from faithfulness_plugin.messages import one_line
from faithfulness_plugin.transcoders.address import Fetched, fetch
from faithfulness_plugin.transcoders.formats import registry
from faithfulness_plugin.transcoders.formats.errors import FormatError
from faithfulness_plugin.transcoders.formats.request import Request
from faithfulness_plugin.transcoders.releases import read_by_sae_lens, release_of, require_readable


@dataclass(frozen=True)
class Loaded:
    """A transcoder, and where it was read from."""

    transcoder: Transcoder
    place: Path | HubPath | Fetched
    """An address where SAELens's own loader has fetched the files."""

    __repr__ = short_repr

    def files(self) -> list[Path]:
        """List the files that it was read from, and fetch them where SAELens's own loader has not kept them.

        Returns:
            The files in the order of their names.
        """
        place = self.place
        if isinstance(place, Path):
            return [file for file in sorted(place.rglob("*")) if file.is_file()] if place.is_dir() else [place]
        return (place if isinstance(place, Fetched) else fetch(place)).files

    @property
    def digest(self) -> str:
        """A digest of these files."""
        digest = hashlib.sha256()
        for file in self.files():
            digest.update(file.name.encode() + hashlib.sha256(file.read_bytes()).digest())
        return "sha256:" + digest.hexdigest()


def load_transcoder(
    source: Path | str,
    *,
    layer: int | None = None,
    device: str = "cpu",
    dtype: torch.dtype | None = torch.float32,
    autoencoder: bool = False,
) -> Transcoder:
    """Load a transcoder that any of the known libraries has written (docs/adapters.md lists them).

    It needs none of those libraries but SAELens, and computes what the library that wrote it computes there: an encoder
    that subtracts a bias gets it folded into its own, a gate becomes the JumpReLU that it is. Tensors and settings that
    the format is not known to have are refused by name, and so are weights that are not finite.

    Args:
        source: a folder, a file (a checkpoint, one layer of a set), or an address: `hf://owner/repo/path`, or
            `RELEASE/ID` of SAELens's list of pretrained ones.
        layer: which layer of a set. A transcoder whose file says that it is of another layer is refused.
        device: where the weights go.
        dtype: what the weights are converted to; None keeps the file's. Files in half precision are so measured in
            float32.
        autoencoder: read an autoencoder, as the map from its tensor to the same tensor; without it one is refused.

    Returns:
        A SAELens inference transcoder: Transcoder, JumpReLUTranscoder, one of them with a skip connection, or
        `TopKTranscoder`. `cfg.metadata` says where it came from (`source`), and, where the files say so, the model, the
        tensors that it reads and writes, its layer, and its average L0.

    Raises:
        FormatError: nothing there that is known (which format it resembles and what is missing); a tensor or setting
            that is not understood; an autoencoder that was not asked for; another layer than the one asked for.
        UsageError: a device, dtype or layer that cannot be used.
    """
    return load_with_files(source, Request(layer, device, dtype, autoencoder)).transcoder


def load_each(
    sources: Mapping[str, str], *, layer: int | None, device: str, dtype: str, autoencoder: bool
) -> dict[str, Loaded]:
    """Load several transcoders by name, in `eval` mode, as options of a command say.

    Args:
        sources: where each is, as in `load_transcoder`.
        layer: as in `load_transcoder`.
        device: as in `load_transcoder`.
        dtype: "float32", or "stored", which keeps the file's.
        autoencoder: as in `load_transcoder`.

    Returns:
        The transcoders and their places, by name.

    Raises:
        FormatError: as `load_transcoder`.
        UsageError: as `load_transcoder`.
    """
    request = Request(layer, device, torch.float32 if dtype == "float32" else None, autoencoder)
    found = {name: load_with_files(source, request) for name, source in sources.items()}
    for of in found.values():
        of.transcoder.eval()
    return found


def load_with_files(source: Path | str, request: Request) -> Loaded:
    """Load a transcoder, and keep where its files are.

    Args:
        source: as in `load_transcoder`.
        request: its other options.

    Returns:
        The transcoder, and its place.

    Raises:
        FormatError: as `load_transcoder`.
        UsageError: as `load_transcoder`.
    """
    _require_usable(request)
    called = str(source)
    try:
        place: Path | HubPath | Fetched = Path(source)
        if (release := release_of(source)) is not None:
            require_readable(release, request)
        if release is not None and not release.is_read_here:
            place, transcoder = release.files, read_by_sae_lens(release, request)
        elif release is not None or is_hub_path(source):
            place = fetch(HubPath.of(source) if release is None else release.files, layer=request.layer)
            transcoder = registry.read(place.path, request)
        else:
            transcoder = registry.read(place, request)
        if release is not None:
            metadata = transcoder.cfg.metadata
            metadata.source = f"SAELens's list ({metadata.source})"
            metadata.neuronpedia_id = release.listed.neuronpedia_id.get(release.id)
            metadata.l0 = metadata.l0 or release.listed.expected_l0.get(release.id) or None
        request.require_answered(transcoder.cfg, called)
    except OSError as error:
        raise FormatError(f"{error.filename or called} cannot be read ({error.strerror}): check the path") from error
    except FormatError as error:
        named = called in str(error) or str(Path(source)) in str(error)
        raise error if named else FormatError(f"{called}: {error}") from error
    except (TypeError, ValueError, RuntimeError, LookupError, AttributeError) as error:
        raise FormatError(
            f"{called}: what it holds does not make a transcoder ({type(error).__name__}: {one_line(error)}): fetch or "
            "train it again"
        ) from error
    return Loaded(transcoder, place)


def _require_usable(request: Request) -> None:
    """Raise UsageError for a layer that is no number of a block, and for a device or dtype that cannot hold weights."""
    layer, device, dtype = request.layer, request.device, request.dtype
    if layer is not None and (isinstance(layer, bool) or not isinstance(layer, int) or layer < 0):
        raise UsageError(f"layer is {layer!r}: pass the number of a block, such as 3")
    if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise UsageError(f"dtype {dtype!r} holds no weights: pass torch.float32, another floating type, or None")
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:  # a build without CUDA asserts
        raise UsageError(
            f'device {device} cannot be used here ({one_line(error)}): pass another, such as "cpu"'
        ) from error
