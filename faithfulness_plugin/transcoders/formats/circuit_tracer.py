"""circuit-tracer (0.5): a set of transcoders, config.yaml and a layer_N.safetensors for every layer, or a list of files
and addresses in config.yaml."""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from sae_lens.saes.transcoder import Transcoder
from torch import Tensor

from faithfulness_plugin.transcoders.address import fetched
from faithfulness_plugin.transcoders.formats.files import peek_names, peek_settings, settings_in, tensors_in
from faithfulness_plugin.transcoders.formats.format import Format, Likeness, Request
from faithfulness_plugin.transcoders.formats.parts import transcoder_of
from faithfulness_plugin.transcoders.formats.rule import FormatError, Settings, Tensors

TITLE = "a circuit-tracer set"
CONFIG = "config.yaml"
KIND = "transcoder_set"
THRESHOLD = "activation_function.threshold"
SETTINGS = Settings(
    needs=("model_kind", "feature_input_hook", "feature_output_hook"),
    reads=("model_name", "k", "transcoders"),
    only={"model_kind": (KIND,), "activation": (None, "relu", "jumprelu", "topk")},
    harmless=("scan", "repo_id", "revision", "subfolder"),  # where features are looked up, and files came from
)
TENSORS = Tensors(
    needs={"W_enc": "d_sae d", "b_enc": "d_sae", "W_dec": "d_sae d", "b_dec": "d"},
    reads={"W_skip": "d d", THRESHOLD: "d_sae", "k": ""},
    whole=("k",),
)


def layers_in(folder: Path) -> dict[int, Path]:
    """The files of a set that stand in its folder, by layer."""
    found = {re.fullmatch(r"layer_(\d+)\.safetensors", path.name): path for path in folder.glob("layer_*.safetensors")}
    return dict(sorted((int(match[1]), path) for match, path in found.items() if match is not None))


def likeness(path: Path) -> Likeness:
    """By what its config.yaml says, and by the names of its layers' files."""
    folder = path if path.is_dir() else path.parent
    layers = layers_in(folder)
    if path != folder and path.name != CONFIG and path not in layers.values():
        return Likeness.NONE
    config = peek_settings(folder / CONFIG)
    if config.get("model_kind") == KIND:
        return Likeness.CERTAIN if layers or "transcoders" in config else Likeness.SETTINGS
    return Likeness.WEIGHTS if layers else Likeness.NONE


def parts_of(folder: Path) -> dict[int, Path | str]:
    """The files and addresses of a set, by layer: those that config.yaml lists, or those in the folder.

    Raises:
        FormatError: config.yaml is missing or is not understood; no layer is there.
    """
    listed = read_config(folder).get("transcoders")
    if listed is None:
        found: dict[int, Path | str] = dict(layers_in(folder))
        if not found:
            raise FormatError(f"{folder} has {CONFIG} as {TITLE}, and lacks layer_N.safetensors: copy them there, too")
        return found
    if not listed or not isinstance(listed, list) or not all(isinstance(part, str) for part in listed):
        raise FormatError(
            f"{folder / CONFIG}: transcoders is to be a list of paths or hf:// addresses, one for a layer"
        )
    return {i: part if "://" in part else folder / part for i, part in enumerate(listed)}


def read_config(folder: Path) -> Mapping[str, Any]:
    """The settings of a set. Raises FormatError where it is no set of transcoders of single layers."""
    return SETTINGS.check(TITLE, folder / CONFIG, settings_in(TITLE, folder / CONFIG))


def read(path: Path, request: Request) -> Transcoder:
    """t(x) = W_dec a(W_enc x + b_enc) + b_dec (+ W_skip x): ReLU, JumpReLU with thresholds, or TopK.

    Its TopK keeps the k largest pre-activations, whatever their sign.

    Raises:
        FormatError: a layer that the set does not have; keys that are missing or unknown; settings that contradict the
            file; a threshold below 0, under which features there are negative.
    """
    folder = path if path.is_dir() else path.parent
    parts = parts_of(folder)
    if path == folder or path.name == CONFIG:
        layer = _one(folder, list(parts), request.layer)
    else:
        layer = next((number for number, part in parts.items() if part == path), None)
        if layer is None:
            raise FormatError(f"{path} is not among the transcoders that {folder / CONFIG} lists: pass the folder")
        if request.layer not in (None, layer):
            raise FormatError(
                f"{path} is of layer {layer}, and layer={request.layer} was asked for: pass one of the two"
            )
    return _read_layer(folder, parts[layer], layer, replace(request, layer=None))


def _read_layer(folder: Path, part: Path | str, layer: int, request: Request) -> Transcoder:
    config, where = read_config(folder), folder / CONFIG
    for name in ("feature_input_hook", "feature_output_hook"):
        if not isinstance(config[name], str):
            raise FormatError(f"{where} says {name}: {config[name]!r}, and the name of a tensor in a block is needed")
    metadata = {
        "model_name": config.get("model_name"),
        "hook_name": f"blocks.{layer}.{config['feature_input_hook']}",
        "hook_name_out": f"blocks.{layer}.{config['feature_output_hook']}",
    }
    file = part if isinstance(part, Path) else fetched(_address(part))
    names = peek_names(file)
    if file.suffix != ".safetensors" or (names and not names & {*TENSORS.needs}):
        return _of_another_format(file, where, config, metadata, request)
    tensors = TENSORS.check(f"a layer of {TITLE}", file, tensors_in(file), device=request.device, dtype=request.dtype)
    return transcoder_of(
        W_enc=tensors["W_enc"].T,
        b_enc=tensors["b_enc"],
        W_dec=tensors["W_dec"],
        b_dec=tensors["b_dec"],
        W_skip=tensors.get("W_skip"),
        threshold=tensors.get(THRESHOLD),
        k=_k(where, file, config, tensors),
        keep_negative=True,
        metadata={"source": "circuit-tracer", **metadata},
        where=file,
    )


def _address(part: str) -> str:
    """circuit-tracer writes a revision behind the path, and this package behind the repository."""
    return re.sub(r"^hf://([^/]+/[^/]+)/([^?]+)\?revision=(.+)$", r"hf://\1@\3/\2", part)


def _k(where: Path, file: Path, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> int | None:
    """How many features stay in each row; None where all do. Raises FormatError where settings and tensors contradict
    each other."""
    activation, said, stored = config.get("activation"), config.get("k"), tensors.get("k")
    for name, kind in ((THRESHOLD, "jumprelu"), ("k", "topk")):
        if activation not in (None, kind) and name in tensors:
            raise FormatError(f"{where} says activation: {activation}, and {file} has the tensor {name}: one is wrong")
    if activation == "jumprelu" and THRESHOLD not in tensors:
        raise FormatError(f"{where} says activation: jumprelu, and {file} lacks {THRESHOLD}: fetch it again")
    if said is not None and activation != "topk" and stored is None:
        raise FormatError(f"{where} says k: {said}, and not activation: topk, with which alone k is read: add it")
    k = said if stored is None else int(stored)
    if activation == "topk" and k is None:
        raise FormatError(f"{where} says activation: topk, and neither it nor {file} says k: add k to {CONFIG}")
    if said is not None and said != k:
        raise FormatError(f"{where} says k: {said}, and the tensor k of {file} is {k}: one is wrong")
    return k


def _of_another_format(
    file: Path, where: Path, config: Mapping[str, Any], metadata: Mapping[str, Any], request: Request
) -> Transcoder:
    """A listed file in a format of its own (Gemma Scope's); where it reads and writes is what the set says."""
    from faithfulness_plugin.transcoders.formats import registry  # which has this format, too

    if (activation := config.get("activation")) not in (None, "jumprelu"):
        raise FormatError(f"{where} says activation: {activation}, which {file} is not read with: take it out")
    transcoder = registry.read(file, request)
    for name in ("hf_hook_name", "hf_hook_name_out"):
        transcoder.cfg.metadata[name] = None
    for name, value in metadata.items():
        transcoder.cfg.metadata[name] = value
    return transcoder


def _one(folder: Path, layers: list[int], layer: int | None) -> int:
    if layer is None and len(layers) == 1:
        return layers[0]
    if layer not in layers:
        there = ", ".join(map(str, layers))
        asked = "" if layer is None else f"no layer {layer}, but "
        raise FormatError(f"{folder} is {TITLE} with {asked}the layers {there}: pass layer=, one of them")
    return layer


FORMAT = Format(
    title=TITLE,
    writes=f"{CONFIG} and layer_N.safetensors",
    likeness=likeness,
    read=read,
    folders=("layer_*.safetensors", CONFIG),
)
