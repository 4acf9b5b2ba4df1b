"""llamascopium, once lm_saes (Llama Scope): config.json or hyperparams.json, and weights in one of two layouts."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from sae_lens.saes.transcoder import Transcoder
from torch import Tensor

from faithfulness_plugin.transcoders.formats.files import peek_names, peek_settings, settings_in, tensors_in
from faithfulness_plugin.transcoders.formats.format import Format, Likeness, Request
from faithfulness_plugin.transcoders.formats.parts import centred, require_autoencoder_asked, transcoder_of
from faithfulness_plugin.transcoders.formats.pickled import strings_in
from faithfulness_plugin.transcoders.formats.rule import FormatError, Settings, Tensors

TITLE = "a llamascopium folder"
CONFIGS = ("config.json", "hyperparams.json")
WEIGHTS = tuple(
    f"{name}.{kind}"
    for name in ("sae_weights", "checkpoints/pruned", "checkpoints/final")
    for kind in ("safetensors", "pt")
)
"""In the order in which the library takes them."""
NORM = "dataset_average_activation_norm"
THRESHOLD = "activation_function.log_jumprelu_threshold"
SETTINGS = Settings(
    needs=("d_model", "hook_point_in", "hook_point_out", "act_fn", "norm_activation"),
    reads=(
        *("sae_type", "d_sae", "expansion_factor", "use_decoder_bias", "apply_decoder_bias_to_pre_encoder"),
        *("sparsity_include_decoder_norm", "top_k", "jump_relu_threshold", NORM),
    ),
    only={"use_glu_encoder": (False,)},
    # of training: starting values, losses, schedules, machines
    harmless=(
        *("device", "seed", "dtype", "bias_init_method", "decoder_exactly_fixed_norm", "init_decoder_norm"),
        *("init_encoder_norm", "init_encoder_with_decoder_transpose", "lp", "l1_coefficient", "initial_k"),
        *("l1_coefficient_warmup_steps", "k_warmup_steps", "use_batch_norm_mse", "use_ghost_grads", "tp_size"),
        *("ddp_size", "jumprelu_threshold_window", "use_triton_kernel", "sae_pretrained_name_or_path"),
        *("sparsity_threshold_for_triton_spmm_kernel", "strict_loading"),
    ),
)
LAYOUTS = {
    "encoder.weight": (
        {"encoder.weight": "d_sae d_in", "encoder.bias": "d_sae", "decoder.weight": "d_out d_sae"},
        {"decoder.bias": "d_out"},
    ),
    "W_E": ({"W_E": "d_in d_sae", "b_E": "d_sae", "W_D": "d_sae d_out"}, {"b_D": "d_out"}),
}
"""By a tensor that tells it: of 2024, and since. The tensors that are needed, and those that may be there."""


def likeness(path: Path) -> Likeness:
    """By settings that no other library has, or by the names of its tensors."""
    folder, file = _files(path)
    if path.is_file() and path != file and path.name not in CONFIGS:
        return Likeness.NONE
    if not any({"d_model", "hook_point_in"} <= peek_settings(folder / name).keys() for name in CONFIGS):
        names = (peek_names(file) if file.suffix == ".safetensors" else strings_in(file)) if file else frozenset()
        return Likeness.CERTAIN if {"W_E", "W_D"} <= names else Likeness.NONE
    return Likeness.CERTAIN if file else Likeness.SETTINGS


def read(path: Path, request: Request) -> Transcoder:
    """t(x) = (W_D act(W_E s_in x + b_E) + b_D) / s_out with s = sqrt(d_model) / (average norm) where activations were
    normalised dataset-wise, and s = 1 where not: the scales go into the weights.

    act is ReLU, TopK or JumpReLU, of pre-activations that are multiplied by the norms of the decoder's rows where
    sparsity_include_decoder_norm says so. The thresholds of the 2024 layout, one number for all features, are
    compared after the library's own folding of scales and norms.

    Source: OpenMOSS/Language-Model-SAEs; Z. He et al., "Llama Scope", 2024.
    """
    folder, file = _files(path)
    where = next((folder / name for name in CONFIGS if (folder / name).exists()), folder / CONFIGS[0])
    config = SETTINGS.check(TITLE, where, settings_in(TITLE, where))
    if file is None:
        raise FormatError(f"{folder} looks like {TITLE}, and lacks {' or '.join(WEIGHTS[::2])}: copy that there, too")
    if (kind := config.get("sae_type", "sae")) != "sae":
        raise FormatError(
            f"{where} says sae_type: {kind!r}, which is no map of one layer's input to its output; sae is"
        )
    hook, written = config["hook_point_in"], config["hook_point_out"]
    if hook == written:
        require_autoencoder_asked(where, hook, request)
    found = tensors_in(file)
    found = found["sae"] if isinstance(found, Mapping) and "sae" in found and file.suffix == ".pt" else found
    layout = "encoder.weight" if isinstance(found, Mapping) and "encoder.weight" in found else "W_E"
    activation = _activation(config, where)
    weights = _tensors(layout, config, activation).check(
        TITLE, file, found, sizes=_sizes(config, where), device=request.device, dtype=torch.float64
    )
    parts = _folded(layout, config, where, _scales(config, where, weights), weights)
    dtype = request.dtype or next(found[name].dtype for name in LAYOUTS[layout][0])
    model = "meta-llama/Llama-3.1-8B" if "Llama3_1-8B-Base" in folder.absolute().as_posix() else None
    metadata = {"source": "llamascopium", "model_name": model, "hook_name": hook, "hook_name_out": written}
    return transcoder_of(
        **{name: part.to(dtype) for name, part in parts.items()},  # pyright: ignore[reportArgumentType]
        k=config["top_k"] if activation == "topk" else None,
        rank_by_norm=activation == "topk" and _setting(config, "sparsity_include_decoder_norm", where),
        metadata=metadata | ({"autoencoder": True} if hook == written else {}),
        where=file,
    )


def _files(path: Path) -> tuple[Path, Path | None]:
    """The folder, and its weights."""
    if path.is_file() and path.suffix in (".safetensors", ".pt"):
        return (path.parent.parent if path.parent.name == "checkpoints" else path.parent), path
    folder = path if path.is_dir() else path.parent
    return folder, next((folder / name for name in WEIGHTS if (folder / name).exists()), None)


def _setting(config: Mapping[str, Any], name: str, where: Path) -> bool:
    """A setting that decides the function, and whose absence means different things in the library's versions."""
    if not isinstance(config.get(name), bool):
        raise FormatError(f"{where} lacks {name}: true or false, which the function depends on: fetch the whole file")
    return config[name]


def _activation(config: Mapping[str, Any], where: Path) -> str:
    activation = str(config["act_fn"]).lower()
    if activation not in ("relu", "topk", "jumprelu"):
        raise FormatError(
            f"{where} says act_fn: {config['act_fn']}, and relu, topk and jumprelu are read: batchtopk chooses over "
            "a batch, and is no function of one row (convert it to jumprelu with llamascopium first)"
        )
    if activation == "topk" and (config.get("jump_relu_threshold") or 0) > 0:
        return "jumprelu"  # the library reads such files so
    if activation == "topk":
        Settings(needs=("top_k",), reads=tuple(config)).check(TITLE, where, config)
    return activation


def _tensors(layout: str, config: Mapping[str, Any], activation: str) -> Tensors:
    needs, bias = LAYOUTS[layout]
    norms = {f"{NORM}.{hook}": "" for hook in (config["hook_point_in"], config["hook_point_out"])}
    learned = activation == "jumprelu" and config.get("jump_relu_threshold") is None
    own = {THRESHOLD: "d_sae"} if learned else {}
    if config.get("use_decoder_bias", True) is True:
        own |= bias
    # the library writes them in any case, without values where nothing was normalised by them
    read = config["norm_activation"] == "dataset-wise"
    return Tensors(needs={**needs, **own}, reads=norms if read else {}, harmless=tuple(norms))


def _sizes(config: Mapping[str, Any], where: Path) -> dict[str, tuple[Any, str]]:
    sizes = dict.fromkeys(("d_in", "d_out"), (config["d_model"], f"d_model in {where.name}"))
    return sizes | ({"d_sae": (config["d_sae"], f"d_sae in {where.name}")} if config.get("d_sae") else {})


def _scales(config: Mapping[str, Any], where: Path, weights: Mapping[str, Tensor]) -> tuple[float, float]:
    """What inputs are multiplied by, and outputs divided by."""
    if (norm := config["norm_activation"]) in ("inference", "none"):
        return 1.0, 1.0
    if norm != "dataset-wise":
        raise FormatError(
            f"{where} says norm_activation: {norm}: each row is scaled by its own norm, which no SAELens class does; "
            "dataset-wise and inference are read"
        )
    stated = config.get(NORM) or {}
    found = []
    for end in ("in", "out"):
        hook = config[f"hook_point_{end}"]
        value = weights[f"{NORM}.{hook}"].item() if f"{NORM}.{hook}" in weights else stated.get(end, stated.get(hook))
        if not isinstance(value, int | float) or not 0 < value < float("inf"):
            raise FormatError(
                f"{where} says norm_activation: dataset-wise, and the average norm at {hook} ({NORM}) is {value!r}: a "
                "positive number is needed"
            )
        found.append(config["d_model"] ** 0.5 / value)
    return found[0], found[1]


def _folded(
    layout: str, config: Mapping[str, Any], where: Path, scales: tuple[float, float], weights: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """W_enc, b_enc, W_dec, b_dec and threshold for raw inputs and outputs."""
    s_in, s_out = scales
    old = layout == "encoder.weight"
    W_enc = weights["encoder.weight"].mT if old else weights["W_E"]
    b_enc = weights["encoder.bias" if old else "b_E"]
    W_dec = weights["decoder.weight"].mT if old else weights["W_D"]
    b_dec = weights.get("decoder.bias" if old else "b_D")
    b_dec = W_dec.new_zeros(W_dec.shape[1]) if b_dec is None else b_dec
    subtracts = (old and "decoder.bias" in weights) or "apply_decoder_bias_to_pre_encoder" in config
    if subtracts and _setting(config, "apply_decoder_bias_to_pre_encoder", where):
        b_enc = centred(b_enc, W_enc, b_dec)  # from inputs that are scaled
    parts = {"W_enc": W_enc * s_in, "b_enc": b_enc, "W_dec": W_dec / s_out, "b_dec": b_dec / s_out}
    if _activation(config, where) == "jumprelu":
        by_norm = _setting(config, "sparsity_include_decoder_norm", where)
        norms = W_dec.norm(dim=1) if by_norm else torch.ones_like(b_enc)
        if (stated := config.get("jump_relu_threshold")) is None:
            parts["threshold"] = weights[THRESHOLD].exp() / norms
        elif by_norm:
            parts["threshold"] = stated * s_out / norms
        else:
            parts["threshold"] = stated * s_in * norms
    return parts


FORMAT = Format(
    title=TITLE,
    writes=f"{' or '.join(CONFIGS)} and {WEIGHTS[0]} or {WEIGHTS[4]}",
    likeness=likeness,
    read=read,
    folders=("hyperparams.json",),
)
