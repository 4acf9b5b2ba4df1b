"""circuit-tracer (0.5): a set of transcoders, config.yaml and a layer_N.safetensors for every layer, or a list of files
and addresses in config.yaml."""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from sae_lens.saes.transcoder import Transcoder
from torch import Tensor
from typing_extensions import override

from faithfulness_plugin.hub_path import HubPath
from faithfulness_plugin.transcoders.address import fetch
from faithfulness_plugin.transcoders.formats.errors import FormatError
from faithfulness_plugin.transcoders.formats.files import peek_names, peek_settings, settings_in
from faithfulness_plugin.transcoders.formats.format import Files, Format, Function, Likeness
from faithfulness_plugin.transcoders.formats.request import Request
from faithfulness_plugin.transcoders.formats.schema import Settings, Tensors

CONFIG = "config.yaml"
KIND = "transcoder_set"
THRESHOLD = "activation_function.threshold"
TENSORS = Tensors(
    {"W_enc": "d_sae d", "b_enc": "d_sae", "W_dec": "d_sae d", "b_dec": "d"},
    {"W_skip": "d d", THRESHOLD: "d_sae", "k": ""},
    whole=("k",),
    names={"threshold": THRESHOLD},
)


class CircuitTracer(Format):
    """t(x) = W_dec a(W_enc x + b_enc) + b_dec (+ W_skip x): ReLU, JumpReLU with thresholds, or TopK, which keeps the k
    largest pre-activations, whatever their sign. A threshold below 0, under which features are negative, is refused."""

    title = "a circuit-tracer set"
    source = "circuit-tracer"
    configs = (CONFIG,)
    weights = ("layer_*.safetensors",)
    folders = (CONFIG,)
    writes = f"{CONFIG} and layer_N.safetensors"
    settings = Settings(
        needs="model_kind feature_input_hook feature_output_hook",
        reads="model_name k transcoders",
        only={"model_kind": (KIND,), "activation": (None, "relu", "jumprelu", "topk")},
        harmless="scan repo_id revision subfolder",  # where features are looked up, and files came from
    )

    @override
    def likeness(self, path: Path) -> Likeness:
        """Look at config.yaml, and at the names of the files of layers."""
        folder = path if path.is_dir() else path.parent
        layers = _layers_in(folder)
        if path != folder and path.name != CONFIG and path not in layers.values():
            return Likeness.NONE
        config = peek_settings(folder / CONFIG)
        if config.get("model_kind") == KIND:
            return Likeness.CERTAIN if layers or "transcoders" in config else Likeness.SETTINGS
        return Likeness.WEIGHTS if layers else Likeness.NONE

    @override
    def read(self, path: Path, request: Request) -> Transcoder:
        """Read one layer of a set. Raises FormatError for a layer that the set does not have."""
        folder = path if path.is_dir() else path.parent
        parts, layer = self.parts_of(folder), request.layer
        if path != folder and path.name != CONFIG:
            layer = next((number for number, part in parts.items() if part == path), None)
            if layer is None:
                raise FormatError(f"{path} is not among the transcoders that {folder / CONFIG} lists: pass the folder")
            if request.layer not in (None, layer):
                raise FormatError(
                    f"{path} is of layer {layer}, and layer={request.layer} was asked for: pass one of the two"
                )
        elif layer is None and len(parts) == 1:
            layer = next(iter(parts))
        if layer not in parts:
            asked = "" if layer is None else f"no layer {layer}, but "
            listed = ", ".join(map(str, parts))
            raise FormatError(f"{folder} is {self.title} with {asked}the layers {listed}: pass layer=, one of them")
        file = parts[layer] if isinstance(parts[layer], Path) else fetch(HubPath.of(_address(str(parts[layer])))).path
        request, files = replace(request, layer=None), Files(folder, folder / CONFIG, Path(file), layer)
        names = peek_names(files.weights)
        is_own = files.weights.suffix == ".safetensors" and (not names or names & {*TENSORS.needs})
        return self.read_files(files, request) if is_own else self._read_another_format(files, request)

    def parts_of(self, folder: Path) -> dict[int, Path | str]:
        """Return the files and addresses of a set, by layer: those that config.yaml lists, or those in the folder.

        Args:
            folder: the set's.

        Returns:
            A path, or the text of an address, for each layer.

        Raises:
            FormatError: config.yaml is missing or is not understood; no layer is there.
        """
        listed = self._config(folder).get("transcoders")
        if listed is None:
            found: dict[int, Path | str] = {**_layers_in(folder)}
            if not found:
                raise FormatError(
                    f"{folder} has {CONFIG} as {self.title}, and lacks layer_N.safetensors: copy them there, too"
                )
            return found
        if not listed or not isinstance(listed, list) or not all(isinstance(part, str) for part in listed):
            raise FormatError(
                f"{folder / CONFIG}: transcoders is to be a list of paths or hf:// addresses, one for a layer"
            )
        return {i: part if "://" in part else folder / part for i, part in enumerate(listed)}

    def _config(self, folder: Path) -> Mapping[str, Any]:
        return self.settings.check(self.title, folder / CONFIG, settings_in(self.title, folder / CONFIG))

    def _read_another_format(self, files: Files, request: Request) -> Transcoder:
        """Read a listed file in a format of its own (Gemma Scope's); where it reads and writes is what the set says."""
        from faithfulness_plugin.transcoders.formats import registry  # which has this format, too

        config = self._config(files.folder)
        metadata = _metadata(config, files)
        if (activation := config.get("activation")) not in (None, "jumprelu"):
            raise FormatError(
                f"{files.config} says activation: {activation}, which {files.weights} is not read with: take it out"
            )
        transcoder = registry.read(files.weights, request)
        for name, value in {"hf_hook_name": None, "hf_hook_name_out": None, **metadata}.items():
            transcoder.cfg.metadata[name] = value
        return transcoder

    @override
    def function(self, config: Mapping[str, Any], found: Mapping[str, Any], files: Files) -> Function:
        return Function(
            TENSORS,
            title=f"a layer of {self.title}",
            fold=lambda weights, _: {"k": _k(files, config, weights)},
            arguments={"keep_negative": True},
            metadata=_metadata(config, files),
        )


def _metadata(config: Mapping[str, Any], files: Files) -> dict[str, Any]:
    for name in ("feature_input_hook", "feature_output_hook"):
        if not isinstance(config[name], str):
            raise FormatError(
                f"{files.config} says {name}: {config[name]!r}, and the name of a tensor in a block is needed"
            )
    return {
        "model_name": config.get("model_name"),
        "hook_name": f"blocks.{files.layer}.{config['feature_input_hook']}",
        "hook_name_out": f"blocks.{files.layer}.{config['feature_output_hook']}",
    }


def _layers_in(folder: Path) -> dict[int, Path]:
    """Find the files of a set that stand in its folder, by layer."""
    found = {re.fullmatch(r"layer_(\d+)\.safetensors", path.name): path for path in folder.glob("layer_*.safetensors")}
    return dict(sorted((int(match[1]), path) for match, path in found.items() if match is not None))


def _address(part: str) -> str:
    """Move the revision, which circuit-tracer writes behind the path, behind the repository."""
    return re.sub(r"^hf://([^/]+/[^/]+)/([^?]+)\?revision=(.+)$", r"hf://\1@\3/\2", part)


def _k(files: Files, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> int | None:
    """Return how many features stay in each row, or None where all do. Raises FormatError where settings and tensors
    contradict each other."""
    where, file = files.config, files.weights
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
