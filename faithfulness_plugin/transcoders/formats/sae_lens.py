"""SAELens (6.x) and this package's own exports: a folder with cfg.json and sae_weights.safetensors."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from sae_lens import SAE
from sae_lens.registry import SAE_CLASS_REGISTRY, SAE_TRAINING_CLASS_REGISTRY
from sae_lens.saes.sae import TrainingSAE
from sae_lens.saes.transcoder import Transcoder
from torch import Tensor

from faithfulness_plugin.transcoders.formats.files import peek_settings, settings_in, tensors_in
from faithfulness_plugin.transcoders.formats.format import Format, Likeness, Request
from faithfulness_plugin.transcoders.formats.parts import centred, require_autoencoder_asked, transcoder_of
from faithfulness_plugin.transcoders.formats.rule import (
    YES_OR_NO,
    FormatError,
    Settings,
    Tensors,
    require_finite,
    require_keys,
)

TITLE = "a SAELens folder"
CONFIG = "cfg.json"
WEIGHTS = "sae_weights.safetensors"
DTYPES = tuple(f"{prefix}{name}" for prefix in ("", "torch.") for name in ("float64", "float32", "float16", "bfloat16"))

Parts = dict[str, Any]


@dataclass(frozen=True)
class Architecture:
    """One of SAELens's architectures: what it reads, and the function that this is."""

    tensors: Tensors
    parts: Callable[[Mapping[str, Tensor], Mapping[str, Any]], Parts]
    settings: tuple[str, ...] = ()
    """Needed beside those that all have."""
    may_have: tuple[str, ...] = ()
    """Read where they are there."""
    autoencoder: bool = False


def likeness(path: Path) -> Likeness:
    """By the name of its weights, and by `architecture` in its cfg.json."""
    folder = path if path.is_dir() else path.parent
    if path != folder and path.name not in (CONFIG, WEIGHTS):
        return Likeness.NONE
    said = "architecture" in peek_settings(folder / CONFIG)
    if (folder / WEIGHTS).exists():
        return Likeness.CERTAIN if said else Likeness.WEIGHTS
    return Likeness.SETTINGS if (folder / CONFIG).exists() else Likeness.NONE


def read(path: Path, request: Request) -> Transcoder:
    """The transcoder as its architecture's class, or an autoencoder as a transcoder of the same function.

    Raises:
        FormatError: keys are missing or unknown; an architecture that SAELens cannot load; settings that change the
            function and that the class of the architecture does not honour.
    """
    folder = path if path.is_dir() else path.parent
    return read_parts(
        settings_in(TITLE, folder / CONFIG),
        folder / CONFIG,
        lambda: tensors_in(folder / WEIGHTS),
        folder / WEIGHTS,
        request,
    )


def read_parts(
    config: Mapping[str, Any], where: Path | str, tensors: Callable[[], Any], file: Path | str, request: Request
) -> Transcoder:
    """A transcoder of SAELens's settings and tensors, wherever they come from.

    Args:
        config: as cfg.json has them.
        where: what messages call the settings.
        tensors: loads them, by name.
        file: what messages call the tensors.
    """
    require_keys(TITLE, where, config, "architecture")
    name = config["architecture"]
    if not isinstance(name, str):
        raise FormatError(f"{where}: architecture is {name!r}, and a name is needed")
    if "jacobian" in config and name in SAE_TRAINING_CLASS_REGISTRY and isinstance(where, Path):
        return _of_training(name, config, where, request)
    if name not in ARCHITECTURES:
        return _of_another_class(name, config, where, request)
    of = ARCHITECTURES[name]
    shared = AUTOENCODER if of.autoencoder else TRANSCODER
    own = (*shared.needs, *of.settings, *of.may_have, *FIXED, "apply_b_dec_to_input")
    Settings(
        needs=(*shared.needs, *of.settings),
        reads=of.may_have,
        only={setting: values for setting, values in shared.only.items() if setting in own},
        harmless=shared.harmless,
    ).check(f"{TITLE}'s {name}", where, config)
    if not isinstance(metadata := config["metadata"], Mapping):
        raise FormatError(f"{where}: metadata is {metadata!r}, and values by name are needed")
    if of.autoencoder:
        reads = metadata.get("hf_hook_name") or metadata.get("hook_name") or "its tensor"
        require_autoencoder_asked(where, f"{reads} (architecture {name})", request)
    sizes = {"d_in": (config["d_in"], f"d_in in {CONFIG}"), "d_sae": (config["d_sae"], f"d_sae in {CONFIG}")}
    if not of.autoencoder:
        sizes["d_out"] = (config["d_out"], f"d_out in {CONFIG}")
    optional = {"skip": SKIP, "shift": {"post_enc": "d_sae"}}
    announced = {
        tensor: shape for said, of_it in optional.items() if config.get(said) for tensor, shape in of_it.items()
    }
    weights = Tensors({**of.tensors.needs, **announced}).check(
        f"{TITLE}'s {name}", file, tensors(), sizes=sizes, device=request.device, dtype=request.dtype
    )
    if of.autoencoder:
        metadata = {**metadata, "autoencoder": True}
        for side in ("hook_name", "hf_hook_name"):
            metadata[f"{side}_out"] = metadata.get(side)
    return transcoder_of(**of.parts(weights, config), metadata={"source": "SAELens", **metadata}, where=file)


def _of_training(name: str, config: Mapping[str, Any], where: Path, request: Request) -> Transcoder:
    """A checkpoint of training of this package's transcoders: what `save_inference_model` would export."""
    config_class = SAE_TRAINING_CLASS_REGISTRY[name][1]
    own = tuple(field.name for field in fields(config_class))  # pyright: ignore[reportArgumentType]  a dataclass
    Settings(needs=("architecture", "d_in", "d_sae", "d_out"), reads=own, only=FIXED).check(
        f"a checkpoint of {name}", where, config
    )
    file = where.parent / WEIGHTS
    for weight, tensor in tensors_in(file).items():
        require_finite(file, weight, tensor)
    try:
        training = TrainingSAE.load_from_disk(where.parent, device="cpu")
    except (RuntimeError, LookupError, TypeError, ValueError) as error:
        raise FormatError(f"{file} is not what its {CONFIG} says: {' '.join(str(error).split())}") from error
    with TemporaryDirectory() as finished:
        training.save_inference_model(finished)
        return read(Path(finished), request)


def _of_another_class(name: Any, config: Mapping[str, Any], where: Path | str, request: Request) -> Transcoder:
    """A class that another package has registered with SAELens, loaded by SAELens.

    Its settings are those of its config class, its tensors those of its state dict.
    """
    if name not in SAE_CLASS_REGISTRY:
        raise FormatError(
            f"{where}: SAELens knows no architecture {name} to load (a checkpoint of training? save_inference_model "
            "writes what can be loaded; a class of another package? import that first)"
        )
    sae_class, config_class = SAE_CLASS_REGISTRY[name]
    if sae_class.__module__.partition(".")[0] == "sae_lens" or not isinstance(where, Path):
        raise FormatError(
            f"{where}: architecture {name} has no counterpart here: choose from {', '.join(ARCHITECTURES)}"
        )
    own = tuple(field.name for field in fields(config_class))  # pyright: ignore[reportArgumentType]  a dataclass
    Settings(
        needs=("architecture", "d_in", "d_sae", "dtype"), reads=own, only=FIXED, harmless=("metadata", "device")
    ).check(f"{TITLE}'s {name}", where, config)
    for weight, tensor in tensors_in(where.parent / WEIGHTS).items():
        require_finite(where.parent / WEIGHTS, weight, tensor)
    dtype = None if request.dtype is None else str(request.dtype).removeprefix("torch.")
    try:
        read: Any = SAE.load_from_disk(where.parent, device=request.device, dtype=dtype)
    except (RuntimeError, LookupError, TypeError, ValueError) as error:
        said = " ".join(str(error).split())
        raise FormatError(f"{where.parent / WEIGHTS} is not what its {CONFIG} says: {said}") from error
    return read


def _relu(weights: Mapping[str, Tensor], config: Mapping[str, Any]) -> Parts:
    """a = ReLU(W_enc x + b_enc)."""
    return dict(weights)


def _jumprelu(weights: Mapping[str, Tensor], config: Mapping[str, Any]) -> Parts:
    """a = ReLU(z) 1[z > threshold] with z = W_enc x + b_enc: a threshold below 0 is one of 0."""
    return {**weights, "threshold": weights["threshold"].clamp_min(0)}


def _topk(weights: Mapping[str, Tensor], config: Mapping[str, Any]) -> Parts:
    """a = TopK(ReLU(W_enc x + b_enc)), by a_i ||W_dec^i|| with rescale_acts_by_decoder_norm. SAELens's own class then
    multiplies activations by the norm and divides by it again: the output is the same."""
    own = {"k": config["k"], "rank_by_norm": config["rescale_acts_by_decoder_norm"]}
    return {**weights, **own, "keep_negative": config.get("keep_negative", False)}


def _gated(weights: Mapping[str, Tensor], config: Mapping[str, Any]) -> Parts:
    """a = 1[W_enc x + b_gate > 0] ReLU(e^r W_enc x + b_mag), the JumpReLU of z = e^r W_enc x + b_mag whose threshold is
    b_mag - e^r b_gate, where that is above 0."""
    slope = weights["r_mag"].exp()
    return {
        "W_enc": weights["W_enc"] * slope,
        "b_enc": weights["b_mag"],
        "W_dec": weights["W_dec"],
        "b_dec": weights["b_dec"],
        "threshold": (weights["b_mag"] - slope * weights["b_gate"]).clamp_min(0),
    }


def _of_autoencoder(parts: Callable[[Mapping[str, Tensor], Mapping[str, Any]], Parts]) -> Callable[..., Parts]:
    """Fold the subtraction of b_dec from the input, where `apply_b_dec_to_input` says so."""

    def folded(weights: Mapping[str, Tensor], config: Mapping[str, Any]) -> Parts:
        made = parts(weights, config)
        if config["apply_b_dec_to_input"]:
            made["b_enc"] = centred(made["b_enc"], made["W_enc"], made["b_dec"])
        return made

    return folded


FIXED = {
    # folded into the weights when training ends, or applied by classes whose decoder does not undo it
    "normalize_activations": ("none",),
    "reshape_activations": ("none",),
}
COMMON = {
    **FIXED,
    "dtype": DTYPES,
    **dict.fromkeys(("rescale_acts_by_decoder_norm", "keep_negative", "shift", "skip"), YES_OR_NO),
}
TRANSCODER = Settings(
    needs=("architecture", "d_in", "d_sae", "d_out", "dtype", "metadata"),
    only={**COMMON, "apply_b_dec_to_input": (False,)},
    harmless=("device",),
)
AUTOENCODER = Settings(
    needs=("architecture", "d_in", "d_sae", "dtype", "apply_b_dec_to_input", "metadata"),
    only={**COMMON, "apply_b_dec_to_input": YES_OR_NO},
    harmless=("device",),
)
ENCODER = {"W_enc": "d_in d_sae", "b_enc": "d_sae"}
WRITES_OUT = {**ENCODER, "W_dec": "d_sae d_out", "b_dec": "d_out"}
WRITES_IN = {"W_dec": "d_sae d_in", "b_dec": "d_in"}
SKIP = {"W_skip": "d_out d_in"}
THRESHOLD = {"threshold": "d_sae"}
TOPK = ("k", "rescale_acts_by_decoder_norm")
ARCHITECTURES: dict[str, Architecture] = {
    "transcoder": Architecture(Tensors(WRITES_OUT), _relu),
    "skip_transcoder": Architecture(Tensors({**WRITES_OUT, **SKIP}), _relu),
    "jumprelu_transcoder": Architecture(Tensors({**WRITES_OUT, **THRESHOLD}), _jumprelu),
    "jumprelu_skip_transcoder": Architecture(Tensors({**WRITES_OUT, **SKIP, **THRESHOLD}), _jumprelu),
    "faithful_topk_transcoder": Architecture(Tensors(WRITES_OUT), _topk, (*TOPK, "skip"), ("keep_negative", "shift")),
    "standard": Architecture(Tensors({**ENCODER, **WRITES_IN}), _of_autoencoder(_relu), autoencoder=True),
    "jumprelu": Architecture(
        Tensors({**ENCODER, **WRITES_IN, **THRESHOLD}), _of_autoencoder(_jumprelu), autoencoder=True
    ),
    "topk": Architecture(Tensors({**ENCODER, **WRITES_IN}), _of_autoencoder(_topk), TOPK, autoencoder=True),
    "gated": Architecture(
        Tensors({"W_enc": "d_in d_sae", **WRITES_IN, "b_gate": "d_sae", "b_mag": "d_sae", "r_mag": "d_sae"}),
        _of_autoencoder(_gated),
        autoencoder=True,
    ),
}
"""By the name in cfg.json: SAELens's four transcoders, this package's TopK, and the autoencoders that are such
functions."""

FORMAT = Format(title=TITLE, writes=f"{CONFIG} and {WEIGHTS}", likeness=likeness, read=read, folders=(WEIGHTS,))
