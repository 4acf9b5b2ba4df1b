"""llamascopium, once lm_saes (Llama Scope): config.json or hyperparams.json, and weights in one of two layouts."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from faithfulness_plugin.transcoders.formats.errors import FormatError, Where
from faithfulness_plugin.transcoders.formats.format import Files, Format, Function, Weights
from faithfulness_plugin.transcoders.formats.schema import Settings, Tensors

NORM = "dataset_average_activation_norm"
THRESHOLD = "activation_function.log_jumprelu_threshold"
OLD = {
    "names": {"W_enc": "encoder.weight", "b_enc": "encoder.bias", "W_dec": "decoder.weight", "b_dec": "decoder.bias"},
    "shapes": {"W_enc": "d_sae d_in", "b_enc": "d_sae", "W_dec": "d_out d_sae", "b_dec": "d_out"},
}
"""The layout of 2024."""
NEW = {
    "names": {"W_enc": "W_E", "b_enc": "b_E", "W_dec": "W_D", "b_dec": "b_D"},
    "shapes": {"W_enc": "d_in d_sae", "b_enc": "d_sae", "W_dec": "d_sae d_out", "b_dec": "d_out"},
}


class Llamascopium(Format):
    """t(x) = (W_D act(W_E s_in x + b_E) + b_D) / s_out with s = sqrt(d_model) / (average norm) where activations were
    normalised dataset-wise, and s = 1 where not: the scales go into the weights.

    act is ReLU, TopK or JumpReLU, of pre-activations that are multiplied by the norms of the decoder's rows where
    sparsity_include_decoder_norm says so. The thresholds of the 2024 layout, one number for all features, are
    compared after the library's own folding of scales and norms.

    Source: OpenMOSS/Language-Model-SAEs; Z. He et al., "Llama Scope", 2024.
    """

    title = "a llamascopium folder"
    source = "llamascopium"
    configs = ("config.json", "hyperparams.json")
    weights = tuple(
        f"{name}.{kind}"
        for name in ("sae_weights", "checkpoints/pruned", "checkpoints/final")
        for kind in ("safetensors", "pt")
    )  # in the order in which the library takes them
    other_names = ("*.safetensors", "*.pt")
    folders = ("hyperparams.json",)
    writes = "config.json or hyperparams.json and sae_weights.safetensors or checkpoints/final.safetensors"
    by_name = False
    own_settings = frozenset({"d_model", "hook_point_in"})
    own_tensors = frozenset({"W_E", "W_D"})
    settings = Settings(
        needs="d_model hook_point_in hook_point_out act_fn norm_activation",
        reads=f"sae_type expansion_factor use_decoder_bias apply_decoder_bias_to_pre_encoder top_k {NORM}"
        " sparsity_include_decoder_norm jump_relu_threshold",
        only={"use_glu_encoder": (False,)},
        sizes={"d_in": "d_model", "d_out": "d_model", "d_sae": "d_sae"},
        # of training: starting values, losses, schedules, machines
        harmless="""
            device seed dtype bias_init_method decoder_exactly_fixed_norm init_decoder_norm init_encoder_norm
            init_encoder_with_decoder_transpose lp l1_coefficient initial_k l1_coefficient_warmup_steps k_warmup_steps
            use_batch_norm_mse use_ghost_grads tp_size ddp_size jumprelu_threshold_window use_triton_kernel
            sae_pretrained_name_or_path sparsity_threshold_for_triton_spmm_kernel strict_loading
        """,
    )

    @override
    def opened(self, files: Files) -> tuple[Mapping[str, Any], Any]:
        config, found = super().opened(files)
        nested = files.weights.suffix == ".pt" and isinstance(found, Mapping) and "sae" in found
        return config, found["sae"] if nested else found

    @override
    def function(self, config: Mapping[str, Any], found: Mapping[str, Any], files: Files) -> Function:
        where = files.config or files.folder
        if (kind := config.get("sae_type", "sae")) != "sae":
            raise FormatError(
                f"{where} says sae_type: {kind!r}, which is no map of one layer's input to its output; sae is"
            )
        activation = _activation(config, where)
        hook, written = config["hook_point_in"], config["hook_point_out"]

        def fold(weights: Weights, parts: dict[str, Tensor]) -> dict[str, Tensor]:
            return _folded(config, where, weights, parts)

        topk = {"k": config.get("top_k"), "rank_by_norm": _by_norm(config, where)} if activation == "topk" else {}
        model = "meta-llama/Llama-3.1-8B" if "Llama3_1-8B-Base" in files.folder.absolute().as_posix() else None
        return Function(
            _tensors("encoder.weight" in found, config, activation),
            fold=fold,
            in_float64=True,
            arguments=topk,
            metadata={"model_name": model, "hook_name": hook, "hook_name_out": written},
            autoencoder=hook if hook == written else None,
        )


def _setting(config: Mapping[str, Any], name: str, where: Where) -> bool:
    """A setting that decides the function, and whose absence means different things in the library's versions."""
    if not isinstance(config.get(name), bool):
        raise FormatError(f"{where} lacks {name}: true or false, which the function depends on: fetch the whole file")
    return config[name]


def _by_norm(config: Mapping[str, Any], where: Where) -> bool:
    return _setting(config, "sparsity_include_decoder_norm", where)


def _activation(config: Mapping[str, Any], where: Where) -> str:
    activation = str(config["act_fn"]).lower()
    if activation not in ("relu", "topk", "jumprelu"):
        raise FormatError(
            f"{where} says act_fn: {config['act_fn']}, and relu, topk and jumprelu are read: batchtopk chooses over "
            "a batch, and is no function of one row (convert it to jumprelu with llamascopium first)"
        )
    if activation == "topk" and (config.get("jump_relu_threshold") or 0) > 0:
        return "jumprelu"  # the library reads such files so
    if activation == "topk":
        Settings(needs="top_k", reads=" ".join(config)).check(Llamascopium.title, where, config)
    return activation


def _tensors(old: bool, config: Mapping[str, Any], activation: str) -> Tensors:
    layout = OLD if old else NEW
    needs = {layout["names"][part]: shape for part, shape in layout["shapes"].items()}
    reads = {}
    bias = layout["names"]["b_dec"]
    if config.get("use_decoder_bias", True) is not True:
        del needs[bias]
    if activation == "jumprelu" and config.get("jump_relu_threshold") is None:
        needs[THRESHOLD] = "d_sae"
    norms = {f"{NORM}.{hook}": "" for hook in (config["hook_point_in"], config["hook_point_out"])}
    if config["norm_activation"] == "dataset-wise":
        reads = norms
    # the library writes the norms in any case, without values where nothing was normalised by them
    return Tensors(needs, reads, harmless=tuple(norms), names=layout["names"])


def _scales(config: Mapping[str, Any], where: Where, weights: Mapping[str, Tensor]) -> tuple[float, float]:
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
    config: Mapping[str, Any], where: Where, weights: Mapping[str, Tensor], parts: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """W_enc, b_enc, W_dec, b_dec and threshold for raw inputs and outputs."""
    s_in, s_out = _scales(config, where, weights)
    W_enc, b_enc, W_dec = (parts[name] for name in ("W_enc", "b_enc", "W_dec"))
    b_dec = parts.get("b_dec", W_dec.new_zeros(W_dec.shape[1]))
    subtracts = "decoder.bias" in weights or "apply_decoder_bias_to_pre_encoder" in config
    if subtracts and _setting(config, "apply_decoder_bias_to_pre_encoder", where):
        b_enc = b_enc - b_dec @ W_enc  # from inputs that are scaled
    folded = {"W_enc": W_enc * s_in, "b_enc": b_enc, "W_dec": W_dec / s_out, "b_dec": b_dec / s_out}
    if _activation(config, where) == "jumprelu":
        by_norm = _by_norm(config, where)
        norms = W_dec.norm(dim=1) if by_norm else torch.ones_like(b_enc)
        if (stated := config.get("jump_relu_threshold")) is None:
            folded["threshold"] = weights[THRESHOLD].exp() / norms
        else:
            folded["threshold"] = stated * s_out / norms if by_norm else stated * s_in * norms
    return folded
