"""llamascopium, once lm_saes (Llama Scope): config.json or hyperparams.json, and weights in one of two layouts."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from faithfulness_plugin.transcoders.formats.errors import FormatError, Where
from faithfulness_plugin.transcoders.formats.format import Files, Format, Function, Weights
from faithfulness_plugin.transcoders.formats.parts import centred
from faithfulness_plugin.transcoders.formats.schema import Settings, Tensors

NORM = "dataset_average_activation_norm"
THRESHOLD = "activation_function.log_jumprelu_threshold"
OLD = {
    "W_enc": ("encoder.weight", "d_sae d_in"),
    "b_enc": ("encoder.bias", "d_sae"),
    "W_dec": ("decoder.weight", "d_out d_sae"),
    "b_dec": ("decoder.bias", "d_out"),
}
"""The tensors of 2024, and their shapes."""
NEW = {
    "W_enc": ("W_E", "d_in d_sae"),
    "b_enc": ("b_E", "d_sae"),
    "W_dec": ("W_D", "d_sae d_out"),
    "b_dec": ("b_D", "d_out"),
}
"""The tensors since."""


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
        zero_is_unstated="d_sae",
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
        if (norm := config["norm_activation"]) not in ("inference", "none", "dataset-wise"):
            raise FormatError(
                f"{where} says norm_activation: {norm}: each row is scaled by its own norm, which no SAELens class "
                "does; dataset-wise and inference are read"
            )
        activation = _activation(config, where)
        hook, written = config["hook_point_in"], config["hook_point_out"]
        by_norm = activation != "relu" and _flag(config, "sparsity_include_decoder_norm", where)

        def fold(weights: Weights, parts: dict[str, Tensor]) -> dict[str, Tensor]:
            scaled = norm == "dataset-wise"
            s_in, s_out = (_scale(config, end, where, weights) if scaled else 1.0 for end in ("in", "out"))
            parts.setdefault("b_dec", parts["W_dec"].new_zeros(config["d_model"]))
            thresholds = {}
            if activation == "jumprelu":
                norms = parts["W_dec"].norm(dim=1) if by_norm else torch.ones_like(parts["b_enc"])
                if (stated := config.get("jump_relu_threshold")) is None:
                    thresholds = {"threshold": weights[THRESHOLD].exp() / norms}
                else:
                    thresholds = {"threshold": stated * s_out / norms if by_norm else stated * s_in * norms}
            subtracts = "decoder.bias" in weights or "apply_decoder_bias_to_pre_encoder" in config
            if subtracts and _flag(config, "apply_decoder_bias_to_pre_encoder", where):
                parts["b_enc"] = centred(parts["b_enc"], parts["W_enc"], parts["b_dec"])  # from inputs that are scaled
            scales = {"W_enc": s_in, "W_dec": 1 / s_out, "b_dec": 1 / s_out}
            return {name: parts[name] * scale for name, scale in scales.items()} | thresholds

        topk = {"k": config.get("top_k"), "rank_by_norm": by_norm} if activation == "topk" else {}
        model = "meta-llama/Llama-3.1-8B" if "Llama3_1-8B-Base" in files.folder.absolute().as_posix() else None
        return Function(
            _tensors(OLD if "encoder.weight" in found else NEW, config, activation),
            fold=fold,
            in_float64=True,
            arguments=topk,
            metadata={"model_name": model, "hook_name": hook, "hook_name_out": written},
            autoencoder=hook if hook == written else None,
        )


def _flag(config: Mapping[str, Any], name: str, where: Where) -> bool:
    """Return a setting that decides the function, whose absence means different things in the library's versions."""
    if not isinstance(config.get(name), bool):
        raise FormatError(f"{where} lacks {name}: true or false, which the function depends on: fetch the whole file")
    return config[name]


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


def _tensors(layout: Mapping[str, tuple[str, str]], config: Mapping[str, Any], activation: str) -> Tensors:
    needs = dict(layout.values())
    if config.get("use_decoder_bias", True) is not True:
        del needs[layout["b_dec"][0]]
    if activation == "jumprelu" and config.get("jump_relu_threshold") is None:
        needs[THRESHOLD] = "d_sae"
    # the library writes the norms in any case, without values where nothing was normalised by them
    norms = {f"{NORM}.{hook}": "" for hook in (config["hook_point_in"], config["hook_point_out"])}
    reads = norms if config["norm_activation"] == "dataset-wise" else {}
    return Tensors(needs, reads, harmless=tuple(norms), names={part: name for part, (name, _) in layout.items()})


def _scale(config: Mapping[str, Any], end: str, where: Where, weights: Weights) -> float:
    """Return the factor that gives inputs, or outputs, an average norm of sqrt(d_model)."""
    hook, stated = config[f"hook_point_{end}"], config.get(NORM) or {}
    name = f"{NORM}.{hook}"
    value = weights[name].item() if name in weights else stated.get(end, stated.get(hook))
    if not isinstance(value, int | float) or not 0 < value < float("inf"):
        raise FormatError(
            f"{where} says norm_activation: dataset-wise, and the average norm at {hook} ({NORM}) is {value!r}: a "
            "positive number is needed"
        )
    return config["d_model"] ** 0.5 / value
