"""SAELens (6.x) and this package's own exports: a folder with cfg.json and sae_weights.safetensors."""

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from sae_lens import SAE
from sae_lens.registry import SAE_CLASS_REGISTRY, SAE_TRAINING_CLASS_REGISTRY
from sae_lens.saes.sae import TrainingSAE
from sae_lens.saes.transcoder import Transcoder
from torch import Tensor
from typing_extensions import override

from faithfulness_plugin.transcoders.cross_layer_config import CrossLayerTrainingTranscoderConfig
from faithfulness_plugin.transcoders.formats.errors import FormatError, Where
from faithfulness_plugin.transcoders.formats.files import settings_in, tensors_in
from faithfulness_plugin.transcoders.formats.format import Files, Format, Function, Weights
from faithfulness_plugin.transcoders.formats.parts import gated
from faithfulness_plugin.transcoders.formats.request import Request
from faithfulness_plugin.transcoders.formats.schema import YES_OR_NO, Settings, Tensors, require_finite, require_keys

DTYPES = tuple(f"{prefix}{name}" for prefix in ("", "torch.") for name in ("float64", "float32", "float16", "bfloat16"))
ENCODER = {"W_enc": "d_in d_sae", "b_enc": "d_sae"}
WRITES_OUT = {**ENCODER, "W_dec": "d_sae d_out", "b_dec": "d_out"}
WRITES_IN = {**ENCODER, "W_dec": "d_sae d_in", "b_dec": "d_in"}
SKIP = {"W_skip": "d_out d_in"}
SHIFT = {"post_enc": "d_sae"}
THRESHOLD = {"threshold": "d_sae"}
GATED = {**WRITES_IN, **dict.fromkeys(("b_gate", "b_mag", "r_mag"), "d_sae")}
del GATED["b_enc"]
ARCHITECTURES = {
    "transcoder": WRITES_OUT,
    "skip_transcoder": {**WRITES_OUT, **SKIP},
    "jumprelu_transcoder": {**WRITES_OUT, **THRESHOLD},
    "jumprelu_skip_transcoder": {**WRITES_OUT, **SKIP, **THRESHOLD},
    "faithful_topk_transcoder": WRITES_OUT,
    "standard": WRITES_IN,
    "jumprelu": {**WRITES_IN, **THRESHOLD},
    "topk": WRITES_IN,
    "gated": GATED,
}
"""The tensors by the name in cfg.json: of SAELens's four transcoders, this package's TopK, and the autoencoders that
are such functions."""
FIXED = {
    # folded into the weights when training ends, or applied by classes whose decoder does not undo it
    "normalize_activations": ("none",),
    "reshape_activations": ("none",),
}
ARGUMENTS = {"k": "k", "rank_by_norm": "rescale_acts_by_decoder_norm", "keep_negative": "keep_negative"}
"""The settings that `transcoder_of` takes, by the names that it has for them."""


def _settings_of(architecture: str) -> Settings:
    needs, flags = "architecture d_in d_sae dtype metadata", ""
    if architecture in ("topk", "faithful_topk_transcoder"):
        needs, flags = f"{needs} k rescale_acts_by_decoder_norm", "rescale_acts_by_decoder_norm"
    if architecture == "faithful_topk_transcoder":
        needs, flags = f"{needs} skip", f"{flags} skip keep_negative shift"
    autoencoder = _is_autoencoder(architecture)
    return Settings(
        needs=f"{needs} apply_b_dec_to_input" if autoencoder else f"{needs} d_out",
        only={
            **FIXED,
            "dtype": DTYPES,
            "apply_b_dec_to_input": YES_OR_NO if autoencoder else (False,),
            **dict.fromkeys(flags.split(), YES_OR_NO),
        },
        harmless="device",
    )


def _is_autoencoder(architecture: str) -> bool:
    return ARCHITECTURES[architecture]["W_dec"] == WRITES_IN["W_dec"]


def _gated(weights: Weights, parts: dict[str, Tensor]) -> dict[str, Tensor]:
    return gated(parts["W_enc"], weights["r_mag"], weights["b_gate"], weights["b_mag"])


class SAELens(Format):
    """The transcoder as its architecture's class, or an autoencoder as a transcoder of the same function."""

    title = "a SAELens folder"
    source = "SAELens"
    writes = "cfg.json and sae_weights.safetensors"
    configs = ("cfg.json",)
    weights = ("sae_weights.safetensors",)
    own_settings = frozenset({"architecture"})
    settings = Settings(
        "d_in d_sae d_out", sizes={name: name for name in ("d_in", "d_sae", "d_out")}
    )  # the others depend on the class

    @override
    def read_files(self, files: Files, request: Request) -> Transcoder:
        """Read a folder. Raises FormatError for an architecture that SAELens cannot load, and for settings that change
        the function and that the class of the architecture does not honour."""
        where = files.folder / self.configs[0]
        config, found = settings_in(self.title, where), tensors_in(files.weights)
        name = _architecture(config, where)
        if name == CrossLayerTrainingTranscoderConfig.architecture():
            raise FormatError(
                f"{where} is of a cross-layer transcoder in training, which replaces no single layer: load it with "
                "sae_lens.TrainingSAE.load_from_disk"
            )
        if "jacobian" in config and name in SAE_TRAINING_CLASS_REGISTRY:
            # a checkpoint of training of this package's transcoders: what `save_inference_model` would export
            config_class = SAE_TRAINING_CLASS_REGISTRY[name][1]
            training = _loaded_by_sae_lens(TrainingSAE, config_class, config, found, files, device="cpu")
            with TemporaryDirectory() as finished:
                training.save_inference_model(finished)
                return self.read(Path(finished), request)
        if name not in ARCHITECTURES and name in SAE_CLASS_REGISTRY:
            sae_class, config_class = SAE_CLASS_REGISTRY[name]
            if sae_class.__module__.partition(".")[0] != "sae_lens":  # that another package has registered
                dtype = None if request.dtype is None else str(request.dtype).removeprefix("torch.")
                options = {"device": request.device, "dtype": dtype}
                return _loaded_by_sae_lens(SAE, config_class, config, found, files, **options)
        return read_parts(config, where, found, files.weights, request)


def _loaded_by_sae_lens(
    base: Any, config_class: Any, config: Mapping[str, Any], found: Mapping[str, Tensor], files: Files, **options: Any
) -> Any:
    """Load a class that SAELens has registered. Its settings are those of its config class, its tensors those of its
    state dict."""
    where = files.folder / SAELens.configs[0]
    name = config["architecture"]
    title = f"a checkpoint of {name}" if base is TrainingSAE else f"{SAELens.title}'s {name}"
    settings = Settings("architecture d_in d_sae", " ".join(field.name for field in fields(config_class)), FIXED)
    settings.check(title, where, config)
    for weight, tensor in found.items():
        require_finite(files.weights, weight, tensor)
    try:
        return base.load_from_disk(files.folder, **options)
    except (RuntimeError, LookupError, TypeError, ValueError) as error:
        said = " ".join(str(error).split())
        raise FormatError(f"{files.weights} is not what its {where.name} says: {said}") from error


def read_parts(config: Mapping[str, Any], where: Where, found: Any, file: Where, request: Request) -> Transcoder:
    """Build a transcoder of SAELens's settings and tensors, wherever they come from.

    Args:
        config: the settings as cfg.json has them.
        where: what messages call the settings.
        found: the tensors by name.
        file: what messages call the tensors.
        request: the options of `load_transcoder`.

    Returns:
        The transcoder.

    Raises:
        FormatError: settings or tensors that are missing or unknown.
    """
    name = _architecture(config, where)
    if name not in SAE_CLASS_REGISTRY:
        raise FormatError(
            f"{where}: SAELens knows no architecture {name} to load (a checkpoint of training? save_inference_model "
            "writes what can be loaded; a class of another package? import that first)"
        )
    if name not in ARCHITECTURES:
        raise FormatError(
            f"{where}: architecture {name} has no counterpart here: choose from {', '.join(ARCHITECTURES)}"
        )
    title = f"{SAELens.title}'s {name}"
    _settings_of(name).check(title, where, config)
    if not isinstance(metadata := config["metadata"], Mapping):
        raise FormatError(f"{where}: metadata is {metadata!r}, and values by name are needed")
    reads = metadata.get("hf_hook_name") or metadata.get("hook_name") or "its tensor"
    shapes = {**ARCHITECTURES[name], **(SKIP if config.get("skip") else {}), **(SHIFT if config.get("shift") else {})}
    function = Function(
        Tensors(shapes),
        title,
        centre="b_dec" if config.get("apply_b_dec_to_input") else None,
        rectified="threshold" in shapes,
        fold=_gated if name == "gated" else None,
        arguments={argument: config[setting] for argument, setting in ARGUMENTS.items() if setting in config},
        metadata=metadata,
        autoencoder=f"{reads} (architecture {name})" if _is_autoencoder(name) else None,
    )
    return SAELens().build(function, config, found, where, file, request)


def _architecture(config: Mapping[str, Any], where: Where) -> str:
    require_keys(SAELens.title, where, config, "architecture")
    if not isinstance(name := config["architecture"], str):
        raise FormatError(f"{where}: architecture is {name!r}, and a name is needed")
    return name
