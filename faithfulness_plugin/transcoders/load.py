"""One loader for the folders of every library that trains transcoders."""

import json
from pathlib import Path
from typing import Any

import torch
from sae_lens import SAE
from sae_lens.registry import SAE_CLASS_REGISTRY
from safetensors import SafetensorError

from faithfulness_plugin.transcoders.formats import circuit_tracer, dictionary_learning, sparsify
from faithfulness_plugin.transcoders.formats.parts import FormatError, require_keys

SAE_LENS_WEIGHTS = "sae_weights.safetensors"
SAE_LENS_TITLE = "a SAELens folder"
FILES = ("cfg.json", SAE_LENS_WEIGHTS, sparsify.WEIGHTS)
"""Those that say no more than their folder."""
BEGUN = {
    "cfg.json": ("", f"{SAE_LENS_TITLE} or {sparsify.TITLE}", f"{SAE_LENS_WEIGHTS} or {sparsify.WEIGHTS}"),
    circuit_tracer.CONFIG: ("model_kind", circuit_tracer.TITLE, "layer_N.safetensors"),
    dictionary_learning.CONFIG: ('"trainer"', dictionary_learning.TITLE, dictionary_learning.WEIGHTS),
}
"""Of a file that stands beside weights: what is in it, whose it is then, and the weights."""


def load_transcoder(path: Path | str, *, layer: int | None = None, device: str = "cpu") -> Any:
    """The transcoder in a folder that SAELens, sparsify, dictionary_learning or circuit-tracer has written.

    It needs none of those libraries but SAELens, and computes what the library that wrote it computes there: an encoder
    that subtracts a bias gets it folded into its own, a gate becomes the JumpReLU that it is.

    Args:
        path: the folder; for dictionary_learning also one of its checkpoints (`checkpoints/ae_1000.pt`), for
            circuit-tracer also one layer's file.
        layer: which, for a circuit-tracer set of several; other folders have one transcoder, and do not ask.
        device: where the weights go.

    Returns:
        A SAELens inference transcoder: Transcoder, JumpReLUTranscoder, one of them with a skip connection, or
        `TopKTranscoder`. Of a SAELens folder, the class that it names.

    Raises:
        FormatError: nothing there that is known; which format it looked like and what was missing.
        ValueError: a device that is not there.
    """
    path = Path(path)
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:  # a build without CUDA asserts
        said = next(iter(str(error).splitlines()), type(error).__name__)
        raise ValueError(f'device {device} cannot be used here ({said}): pass another, such as "cpu"') from error
    try:
        return _read(path, layer, device)
    except (SafetensorError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise FormatError(f"{path}: a file there is damaged ({error}): fetch it, or train it again") from error
    except OSError as error:
        raise FormatError(f"{error.filename or path} cannot be read ({error.strerror}): check the path") from error
    except FormatError as error:  # some know shapes only
        raise error if str(path) in str(error) else FormatError(f"{path}: {error}") from error
    except (TypeError, ValueError, RuntimeError, LookupError, AttributeError) as error:
        said = next(iter(str(error).splitlines()), "")
        raise FormatError(
            f"{path}: what stands there makes no transcoder ({type(error).__name__}: {said}): fetch or train it again"
        ) from error


def _read(path: Path, layer: int | None, device: str) -> Any:
    if path.is_file():
        return _read_file(path, layer, device)
    if not path.is_dir():
        raise FormatError(f"{path} does not exist: pass the folder that a transcoder was saved to")
    here = {entry.name for entry in path.iterdir()}
    if SAE_LENS_WEIGHTS in here:
        config = _config(path, SAE_LENS_TITLE)
        require_keys(SAE_LENS_TITLE, path / "cfg.json", config, "architecture")
        return _read_sae_lens(path, config, device)
    if sparsify.WEIGHTS in here:
        return sparsify.read(path, _config(path, sparsify.TITLE), device)
    if dictionary_learning.WEIGHTS in here:
        return dictionary_learning.read(path, device)
    if layers := circuit_tracer.layers_in(path):
        return circuit_tracer.read(path, _one(path, list(layers), layer), device)
    if inside := _inside(path):
        listed = ", ".join(inside[:8]) + ", ..." * (len(inside) > 8)
        raise FormatError(f"{path} is not one transcoder, and holds {listed}: pass one of these in it")
    for name, (key, title, lacks) in BEGUN.items():
        if name in here and key in (path / name).read_text():
            raise FormatError(f"{path} has {name} as {title}, and lacks {lacks}: copy that there, too")
    raise FormatError(
        f"{path} holds no transcoder that is known here ({', '.join(sorted(here)[:8]) or 'it is empty'}): SAELens "
        f"writes cfg.json and {SAE_LENS_WEIGHTS}, sparsify cfg.json and {sparsify.WEIGHTS}, dictionary_learning "
        f"{dictionary_learning.CONFIG} and {dictionary_learning.WEIGHTS}, circuit-tracer {circuit_tracer.CONFIG} and "
        "layer_N.safetensors"
    )


def _read_file(path: Path, layer: int | None, device: str) -> Any:
    if path.suffix == ".pt":
        folder = path.parent.parent if path.parent.name == "checkpoints" else path.parent
        return dictionary_learning.read(folder, device, path)
    for number, file in circuit_tracer.layers_in(path.parent).items():
        if file == path:
            if layer not in (None, number):
                raise FormatError(f"{path} is of layer {number}, and layer={layer} was asked for: pass one of the two")
            return circuit_tracer.read(path.parent, number, device)
    if path.name not in FILES:
        raise FormatError(
            f"{path} is none of the files that are known here ({', '.join(FILES)}, layer_N.safetensors, ae_N.pt): pass "
            "the folder that a transcoder was saved to"
        )
    return _read(path.parent, layer, device)


def _read_sae_lens(path: Path, config: dict[str, Any], device: str) -> Any:
    known = config["architecture"] in SAE_CLASS_REGISTRY
    try:
        return SAE.load_from_disk(path, device=device)
    except KeyError as error:
        if known:
            raise FormatError(f"{path / 'cfg.json'} looks like {SAE_LENS_TITLE}'s, and lacks {error}") from error
        raise FormatError(
            f"{path / 'cfg.json'}: SAELens knows no architecture {config['architecture']} to load (a checkpoint of "
            "training? save_inference_model writes what can be loaded; a class of another package? import that first)"
        ) from error
    except RuntimeError as error:
        said = " ".join(str(error).split())
        raise FormatError(f"{path / SAE_LENS_WEIGHTS} is not what its cfg.json says: {said}") from error


def _config(path: Path, title: str) -> dict[str, Any]:
    try:
        config = json.loads((path / "cfg.json").read_text())
    except FileNotFoundError as error:
        raise FormatError(f"{path} looks like {title}, and lacks cfg.json: copy it there, too") from error
    if not isinstance(config, dict):
        raise FormatError(f"{path / 'cfg.json'} looks like {title}'s, and holds no settings: check the path")
    return config


def _inside(path: Path) -> list[str]:
    """What could be passed instead: a folder, also one in another (a hookpoint's seeds, a run's best), a checkpoint."""
    weights = (SAE_LENS_WEIGHTS, sparsify.WEIGHTS, dictionary_learning.WEIGHTS)
    folders = {file.parent for name in weights for depth in ("*", "*/*") for file in path.glob(f"{depth}/{name}")}
    checkpoints = (*path.glob("checkpoints/ae_*.pt"), *path.glob("ae_*.pt"))
    return sorted(str(found.relative_to(path)) for found in (*folders, *checkpoints))


def _one(path: Path, layers: list[int], layer: int | None) -> int:
    if layer is None and len(layers) == 1:
        return layers[0]
    if layer not in layers:
        there = ", ".join(map(str, layers))
        asked = "" if layer is None else f"no layer {layer}, but "
        raise FormatError(f"{path} is {circuit_tracer.TITLE} with {asked}the layers {there}: pass layer=, one of them")
    return layer
