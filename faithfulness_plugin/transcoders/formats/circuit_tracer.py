"""circuit-tracer (0.5): a set of transcoders, config.yaml and a layer_N.safetensors for every layer."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from sae_lens.saes.transcoder import Transcoder
from safetensors.torch import load_file

from faithfulness_plugin.transcoders.formats.parts import FormatError, require_keys, transcoder_of

TITLE = "a circuit-tracer set"
CONFIG = "config.yaml"
THRESHOLD = "activation_function.threshold"


def layers_in(folder: Path) -> dict[int, Path]:
    """The files of a set, by layer."""
    found = {re.fullmatch(r"layer_(\d+)\.safetensors", path.name): path for path in folder.glob("layer_*.safetensors")}
    return dict(sorted((int(match[1]), path) for match, path in found.items() if match is not None))


def read_config(folder: Path) -> Mapping[str, Any]:
    """What config.yaml says. Raises FormatError where it is no set of transcoders of single layers."""
    path = folder / CONFIG
    try:
        config = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise FormatError(f"{folder} looks like {TITLE}, and its {CONFIG} cannot be read: {error}") from error
    if not isinstance(config, Mapping):
        raise FormatError(f"{path} looks like {TITLE}'s, and holds no settings: check the path")
    require_keys(TITLE, path, config, "model_kind", "feature_input_hook", "feature_output_hook")
    if config["model_kind"] != "transcoder_set":
        raise FormatError(
            f"{path}: model_kind {config['model_kind']} writes to many layers at once, and has no Jacobian of one; a "
            "transcoder_set has"
        )
    return config


def read(folder: Path, layer: int, device: str) -> Transcoder:
    """t(x) = W_dec JumpReLU(W_enc x + b_enc) + b_dec (+ W_skip x); ReLU where there are no thresholds.

    Raises:
        FormatError: keys are missing; a threshold below 0, under which features there are negative.
    """
    config = read_config(folder)
    path = layers_in(folder)[layer]
    weights = load_file(path, device=device)
    require_keys(f"a layer of {TITLE}", path, weights, "W_enc", "b_enc", "W_dec", "b_dec")
    threshold = weights.get(THRESHOLD)
    if threshold is not None and (threshold < 0).any():
        raise FormatError(f"{path} has thresholds below 0, under which features are negative: no SAELens class")
    hooks = {"hook_name": "feature_input_hook", "hook_name_out": "feature_output_hook"}
    return transcoder_of(
        W_enc=weights["W_enc"].T,
        b_enc=weights["b_enc"],
        W_dec=weights["W_dec"],
        b_dec=weights["b_dec"],
        W_skip=weights.get("W_skip"),
        threshold=threshold,
        metadata={
            "source": "circuit-tracer",
            "model_name": config.get("model_name"),
            **{ours: f"blocks.{layer}.{config[theirs]}" for ours, theirs in hooks.items()},
        },
    )
