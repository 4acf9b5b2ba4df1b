"""circuit-tracer's files of a cross-layer transcoder, written and read: W_enc_N.safetensors, W_dec_N.safetensors."""

import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import yaml
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from faithfulness_plugin.atomic import new_folder
from faithfulness_plugin.errors import UsageError
from faithfulness_plugin.messages import one_line
from faithfulness_plugin.transcoders.cross_layer_inference import CrossLayerTranscoder, ReadingPart
from faithfulness_plugin.transcoders.formats.errors import FormatError
from faithfulness_plugin.transcoders.formats.files import peek_settings, settings_in
from faithfulness_plugin.transcoders.formats.schema import Settings, Tensors, require_finite

if TYPE_CHECKING:
    from faithfulness_plugin.transcoders.cross_layer import CrossLayerTrainingTranscoder

CONFIG = "config.yaml"
KIND = "cross_layer_transcoder"
TITLE = "a cross-layer transcoder"
SETTINGS = Settings(
    needs="model_kind",
    reads="model_name feature_input_hook feature_output_hook",
    only={"model_kind": (KIND,)},
    harmless="scan repo_id revision subfolder",
)
HOOKS = {"hook_name": "feature_input_hook", "hook_name_out": "feature_output_hook"}


@torch.no_grad()
def write_cross_layer(transcoder: "CrossLayerTrainingTranscoder", folder: Path) -> tuple[Path, Path]:
    """Write circuit-tracer's files, which `load_cross_layer_transcoder` and its own `load_clt` read.

    config.yaml says which hooks of a block are read and written where the metadata do: hook_name="hook_resid_mid",
    hook_name_out="hook_mlp_out".

    Args:
        transcoder: a trained one. Decoders beyond its bandwidth are written as 0.
        folder: where to write; empty, missing, or one that holds a cross-layer transcoder and nothing else.

    Returns:
        The first file of weights, and config.yaml.

    Raises:
        UsageError: TopK, of which the files know nothing; layers that read and write other widths; a folder with
            something else in it; one that cannot be written.
    """
    each, n = transcoder.cfg.of_layer, transcoder.n_layers
    if each.architecture() == "faithful_topk_transcoder":
        raise UsageError(
            "these are TopK features, and circuit-tracer's files know ReLU and thresholds only: train with BatchTopK, "
            "which is written with the threshold that it learns"
        )
    if each.d_in != each.d_out:
        raise UsageError(
            f"layers read {each.d_in} and write {each.d_out}, and circuit-tracer's files have one width for both"
        )
    if folder.exists() and not _holds_nothing_else(folder):
        raise UsageError(f"{folder} is not empty: choose another folder")
    said = {yaml_name: transcoder.cfg.metadata[name] for name, yaml_name in HOOKS.items()}
    said = {"model_name": transcoder.cfg.metadata.model_name, "model_kind": KIND, **said}
    try:
        with new_folder(folder.resolve()) as made:
            for layer in range(n):
                encoder, decoder = _tensors(transcoder, layer)
                save_file(encoder, made / f"W_enc_{layer}.safetensors")
                save_file(decoder, made / f"W_dec_{layer}.safetensors")
            settings = {name: value for name, value in said.items() if value is not None}
            (made / CONFIG).write_text(yaml.safe_dump(settings, sort_keys=False))
    except OSError as error:
        raise UsageError(f"{folder} cannot be written ({error.strerror or error}): choose another folder") from error
    return folder / "W_enc_0.safetensors", folder / CONFIG


def load_cross_layer_transcoder(
    folder: Path | str, *, device: str = "cpu", dtype: torch.dtype | None = None
) -> CrossLayerTranscoder:
    """Load a cross-layer transcoder of circuit-tracer's files. Decoders stay memory-mapped: that of a layer is read
    when it is first asked for, and its values are checked then.

    Args:
        folder: the folder with W_enc_N.safetensors and W_dec_N.safetensors, and config.yaml or not.
        device: where the weights go.
        dtype: what they are converted to; None keeps the files'. A conversion, like another device, copies a decoder.

    Returns:
        The transcoder.

    Raises:
        FormatError: no such files; layers or decoders that are missing; tensors or settings that are not known;
            widths that do not fit; weights that are not finite.
    """
    folder = Path(folder)
    numbers = {kind: _numbers(folder, kind) for kind in ("enc", "dec")}
    if not any(numbers.values()):
        raise FormatError(
            f"{folder} holds no cross-layer transcoder, which has W_enc_N.safetensors and W_dec_N.safetensors: pass "
            "the folder of one"
        )
    n = 1 + max(max(found, default=0) for found in numbers.values())
    for kind, found in numbers.items():
        if lacks := [f"W_{kind}_{layer}.safetensors" for layer in range(n) if layer not in found]:
            raise FormatError(f"{folder} is {TITLE} of {n} layers, and lacks {', '.join(lacks)}: copy them there, too")
    config: Mapping[str, Any] = {}
    if (folder / CONFIG).exists():
        config = SETTINGS.check(TITLE, folder / CONFIG, settings_in(TITLE, folder / CONFIG))
    encoders = [_encoder(folder, layer, device, dtype) for layer in range(n)]
    d_sae, d = encoders[0]["W_enc"].shape
    parts = []
    for layer, weights in enumerate(encoders):
        where = folder / f"W_enc_{layer}.safetensors"
        if weights["W_enc"].shape != (d_sae, d):
            raise FormatError(
                f"{where}: W_enc_{layer} is {list(weights['W_enc'].shape)}, and that of layer 0 {[d_sae, d]}: layers "
                "of a cross-layer transcoder have one width"
            )
        threshold = weights.get("threshold")
        if threshold is not None and bool((threshold < 0).any()):
            raise FormatError(f"{where} has thresholds below 0, under which features are negative: none are read here")
        _require_decoder(folder, layer, (d_sae, n - layer, d))
        read = partial(_decoder, folder, layer, device, dtype)
        parts.append(ReadingPart(weights["W_enc"].mT, weights["b_enc"], threshold, (n - layer) * d, read))
    if len({part.threshold is None for part in parts}) > 1:
        raise FormatError(f"{folder}: some layers have thresholds and some have none: fetch it again")
    metadata = {"model_name": config.get("model_name"), **{name: config.get(said) for name, said in HOOKS.items()}}
    b_dec = torch.stack([weights["b_dec"] for weights in encoders])
    return CrossLayerTranscoder(parts, b_dec, metadata)


def _tensors(transcoder: "CrossLayerTrainingTranscoder", layer: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the tensors of one layer's two files."""
    part: Any = transcoder.parts[layer]
    d, n = transcoder.d_out_each, transcoder.n_layers
    exported = {name: weight for name, weight in part.state_dict().items() if "parametrizations" not in name}
    part.process_state_dict_for_saving_inference(exported)
    encoder = {
        f"W_enc_{layer}": part.W_enc.mT,
        f"b_enc_{layer}": part.b_enc,
        f"b_dec_{layer}": transcoder.b_dec[layer * d : (layer + 1) * d],
    }
    if "threshold" in exported:
        encoder[f"threshold_{layer}"] = exported["threshold"]
    kept = part.W_dec.unflatten(1, (-1, d))  # [d_sae, K, d]
    beyond = kept.new_zeros(len(kept), n - layer - kept.shape[1], d)
    decoder = {f"W_dec_{layer}": torch.cat([kept, beyond], dim=1)}
    return tuple({name: w.detach().cpu().contiguous().clone() for name, w in of.items()} for of in (encoder, decoder))  # pyright: ignore


def _encoder(folder: Path, layer: int, device: str, dtype: torch.dtype | None) -> dict[str, Tensor]:
    path = folder / f"W_enc_{layer}.safetensors"
    tensors = Tensors(
        {f"W_enc_{layer}": "d_sae d", f"b_enc_{layer}": "d_sae", f"b_dec_{layer}": "d"}, {f"threshold_{layer}": "d_sae"}
    )
    with _opened(path) as file:
        found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  it is no dict
    checked = tensors.check(TITLE, path, found, device=device, dtype=dtype)
    return {name.removesuffix(f"_{layer}"): tensor for name, tensor in checked.items()}


def _require_decoder(folder: Path, layer: int, shape: tuple[int, int, int]) -> None:
    """Check a decoder's name and shape, of which the header tells."""
    path, name = folder / f"W_dec_{layer}.safetensors", f"W_dec_{layer}"
    with _opened(path) as file:
        names = list(file.keys())
        if names != [name]:
            raise FormatError(
                f"{path} has {', '.join(names) or 'no tensors'}, and {name} alone is read: fetch it again"
            )
        if (found := tuple(file.get_slice(name).get_shape())) != shape:
            raise FormatError(
                f"{path}: {name} is {list(found)}, and {list(shape)} is needed: features, layers from {layer} on, width"
            )


def _decoder(folder: Path, layer: int, device: str, dtype: torch.dtype | None) -> Float[Tensor, "d_sae written"]:
    path, name = folder / f"W_dec_{layer}.safetensors", f"W_dec_{layer}"
    with _opened(path) as file:
        decoder: Tensor = file.get_tensor(name)  # a view of the file, not a copy
    require_finite(path, name, decoder)
    return decoder.to(device, dtype).flatten(1)


def _opened(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt")
    except FileNotFoundError as error:
        raise FormatError(f"{path.parent} is {TITLE}, and lacks {path.name}: copy it there, too") from error
    except (OSError, SafetensorError) as error:
        raise FormatError(f"{path} is damaged ({one_line(error)}): fetch it again") from error


def _numbers(folder: Path, kind: str) -> set[int]:
    found = (re.fullmatch(rf"W_{kind}_(\d+)\.safetensors", path.name) for path in folder.glob("W_*.safetensors"))
    return {int(match[1]) for match in found if match is not None}


def _holds_nothing_else(folder: Path) -> bool:
    """Check that a folder is empty, or holds a cross-layer transcoder and nothing else."""
    if not folder.is_dir():
        return False
    there = list(folder.iterdir())
    known = all(path.name == CONFIG or re.fullmatch(r"W_(enc|dec)_\d+\.safetensors", path.name) for path in there)
    return not there or (known and peek_settings(folder / CONFIG).get("model_kind") == KIND)
