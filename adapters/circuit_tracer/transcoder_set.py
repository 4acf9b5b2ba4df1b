"""A folder with a transcoder for every layer of a model, as circuit-tracer keeps them in its cache."""

import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from sae_lens import SAE
from sae_lens.saes.sae import TrainingSAE
from sae_lens.saes.transcoder import JumpReLUTranscoder, Transcoder
from safetensors.torch import save_file
from torch import Tensor

from faithfulness_plugin.atomic import new_folder
from faithfulness_plugin.export_folder import ExportKind, require_place
from faithfulness_plugin.hub_path import HubPath, is_hub_path
from faithfulness_plugin.transcoders.address import fetch, layers_at
from faithfulness_plugin.transcoders.formats.circuit_tracer import CONFIG, KIND, THRESHOLD, CircuitTracer
from faithfulness_plugin.transcoders.formats.errors import FormatError
from faithfulness_plugin.transcoders.formats.files import peek_settings
from faithfulness_plugin.transcoders.formats.schema import require_finite
from faithfulness_plugin.transcoders.load import load_transcoder
from faithfulness_plugin.transcoders.topk_inference import TopKTranscoder


def _owner(folder: Path) -> str | None:
    config = peek_settings(folder / CONFIG)
    return str(config.get("model_name")) if config.get("model_kind") == KIND else None


SET = ExportKind("the files of a transcoder set", rf"{re.escape(CONFIG)}|layer_\d+\.safetensors", _owner)


def export_transcoder_set(
    transcoders: Mapping[int, Any],
    folder: Path | str,
    *,
    model_name: str,
    feature_input_hook: str | None = None,
    feature_output_hook: str | None = None,
    scan: str | None = None,
    overwrite: bool = False,
) -> Path:
    """Write config.yaml and a layer_N.safetensors for every transcoder.

    circuit-tracer loads the folder CACHE/NAME/SET with `ReplacementModel.from_pretrained(model, "NAME/SET")` where the
    environment variable CIRCUIT_TRACER_CACHE_DIR says CACHE. There features are ReLU or JumpReLU: of those, and of
    BatchTopK, which is exported as JumpReLU, the outputs are equal. A TopK transcoder goes through `topk_to_jumprelu`
    first.

    Args:
        transcoders: by layer, one for each from 0 on, of one width; training or inference classes.
        folder: where to write; empty, missing, or a set to overwrite.
        model_name: as TransformerLens calls the model.
        feature_input_hook: where they read, below `blocks.N.`, such as "mlp.hook_in"; None takes what their metadata
            say.
        feature_output_hook: where they write, likewise.
        scan: where circuit-tracer's front end looks features up: a repository of the Hugging Face Hub, or a path, which
            stands for the `features_dir` that it serves. None is the set's name there, or its path in the cache.
        overwrite: replace a set that is there, and nothing else is.

    Returns:
        The folder.

    Raises:
        ValueError: layers that are missing, transcoders that differ in width or in having a skip connection, or whose
            output is not as wide as their input; TopK; activations that are normalised; weights that are not finite;
            hooks that nobody said; a folder with something in it; one that cannot be written.
    """
    folder = Path(folder).resolve()
    finished = {layer: _finished(transcoder) for layer, transcoder in sorted(transcoders.items())}
    _require_a_set(finished)
    config = {
        "model_name": model_name,
        "model_kind": KIND,
        "feature_input_hook": feature_input_hook or _hook(finished, "hook_name", "feature_input_hook"),
        "feature_output_hook": feature_output_hook or _hook(finished, "hook_name_out", "feature_output_hook"),
        **({} if scan is None else {"scan": scan}),
    }
    require_place(folder, SET, overwrite=overwrite)
    try:
        with new_folder(folder) as made:
            for layer, transcoder in finished.items():
                save_file(_weights(transcoder), made / f"layer_{layer}.safetensors")
            (made / CONFIG).write_text(yaml.safe_dump(config, sort_keys=False))
    except OSError as error:
        raise ValueError(f"{folder} cannot be written ({error.strerror or error}): choose another folder") from error
    return folder


def load_transcoder_set(
    source: Path | str, device: str = "cpu", *, dtype: torch.dtype | None = torch.float32
) -> dict[int, Transcoder]:
    """Load the transcoders of a set as SAELens inference classes.

    Args:
        source: the folder of a set, or its address, `hf://owner/repo`.
        device: where the weights go.
        dtype: what the weights are converted to; None keeps the files'.

    Returns:
        The transcoders by layer.

    Raises:
        FormatError: as `load_transcoder`; no set is there.
    """
    layers = layers_at(source) if is_hub_path(source) else []
    if not layers:
        folder = fetch(HubPath.of(source)).path if is_hub_path(source) else Path(source)
        if not (folder / CONFIG).is_file():
            raise FormatError(f"{source} is no circuit-tracer set, which has {CONFIG}: pass the folder of one")
        layers = list(CircuitTracer().parts_of(folder))
    return {layer: load_transcoder(source, layer=layer, device=device, dtype=dtype) for layer in layers}


def _finished(transcoder: Any) -> Any:
    """Return an inference transcoder: itself, or what a training class exports."""
    if not isinstance(transcoder, TrainingSAE):
        return transcoder
    with tempfile.TemporaryDirectory() as folder:
        transcoder.save_inference_model(folder)
        return SAE.load_from_disk(folder)


def _require_a_set(transcoders: Mapping[int, Any]) -> None:
    if list(transcoders) != list(range(len(transcoders))) or not transcoders:
        raise ValueError(
            f"transcoders for the layers {', '.join(map(str, transcoders)) or '(none)'}: circuit-tracer needs one for "
            "every layer of the model, from 0 on"
        )
    for layer, transcoder in transcoders.items():
        if isinstance(transcoder, TopKTranscoder):
            raise ValueError(
                f"layer {layer} is a TopK transcoder, and circuit-tracer's files know thresholds only: pass "
                "topk_to_jumprelu(transcoder, inputs)"
            )
        if not isinstance(transcoder, Transcoder):
            raise ValueError(f"layer {layer} is a {type(transcoder).__name__}: pass a transcoder")
        for name, weight in transcoder.named_parameters():
            require_finite(f"layer {layer}", name, weight)
        if (kind := transcoder.cfg.normalize_activations) != "none":
            raise ValueError(
                f"layer {layer} normalises its input ({kind}), which circuit-tracer does not: fold that in"
            )
        if transcoder.cfg.d_in != transcoder.cfg.d_out:
            raise ValueError(
                f"layer {layer} reads {transcoder.cfg.d_in} and writes {transcoder.cfg.d_out}: they must agree"
            )
    for what in ("d_in", "d_sae", "dtype"):
        if len(found := {str(getattr(transcoder.cfg, what)) for transcoder in transcoders.values()}) > 1:
            raise ValueError(f"the transcoders differ in {what} ({', '.join(sorted(found))}): a set has one")
    if len({hasattr(transcoder, "W_skip") for transcoder in transcoders.values()}) > 1:
        raise ValueError("some transcoders have a skip connection and some have none: circuit-tracer takes all or none")


def _hook(transcoders: Mapping[int, Any], said: str, option: str) -> str:
    """Return the hook that all transcoders have in their block, as their metadata say."""
    found = set()
    for layer, transcoder in transcoders.items():
        name, block = getattr(transcoder.cfg.metadata, said), f"blocks.{layer}."
        found.add(name.removeprefix(block) if isinstance(name, str) and name.startswith(block) else None)
    if None in found or len(found) != 1:
        raise ValueError(
            f"the transcoders' metadata disagree on where they {'read' if said == 'hook_name' else 'write'}: pass "
            f'{option}, such as "mlp.{"hook_in" if said == "hook_name" else "hook_out"}"'
        )
    return found.pop()


def _weights(transcoder: Any) -> dict[str, Tensor]:
    """Return the weights in circuit-tracer's names and shapes: its W_enc is [d_sae, d_in]."""
    parts = {
        "W_enc": transcoder.W_enc.T,
        "b_enc": transcoder.b_enc,
        "W_dec": transcoder.W_dec,
        "b_dec": transcoder.b_dec,
    }
    if getattr(transcoder, "W_skip", None) is not None:
        parts["W_skip"] = transcoder.W_skip
    if isinstance(transcoder, JumpReLUTranscoder):
        parts[THRESHOLD] = transcoder.threshold.clamp_min(0)  # below 0, SAELens's ReLU decides
    return {name: part.detach().to("cpu", torch.float32).contiguous() for name, part in parts.items()}
