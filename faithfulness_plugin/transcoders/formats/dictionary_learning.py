"""dictionary_learning (0.1.x): a folder with config.json and ae.pt, whose keys depend on the dictionary's class."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sae_lens.saes.transcoder import Transcoder
from torch import Tensor

from faithfulness_plugin.transcoders.formats.files import peek_settings, settings_in, tensors_in
from faithfulness_plugin.transcoders.formats.format import Format, Likeness, Request
from faithfulness_plugin.transcoders.formats.parts import (
    centred,
    require_autoencoder_asked,
    require_transcoder_asked,
    transcoder_of,
)
from faithfulness_plugin.transcoders.formats.rule import FormatError, Settings, Tensors, require_keys

TITLE = "a dictionary_learning folder"
WEIGHTS = "ae.pt"
CONFIG = "config.json"
CHECKPOINTS = "ae_*.pt"

Parts = dict[str, Any]

SECTIONS = Settings(needs=("trainer",), reads=("buffer",))
TRAINER = Settings(
    needs=("dict_class",),
    reads=("activation_dim", "dict_size", "group_sizes", "layer", "lm_name", "submodule_name"),
    harmless=(
        # biases are scaled back before they are saved; k is a tensor, which some trainers change as they go
        "k",
        *("norm_factor", "trainer_class", "wandb_name", "device", "seed", "steps", "lr", "warmup_steps"),
        *("decay_start", "resample_steps", "l1_penalty", "sparsity_penalty", "sparsity_warmup_steps"),
        *("sparsity_function", "sparsity_queue_length", "n_sparsity_updates", "p_start", "p_end", "anneal_start"),
        *("auxk_alpha", "top_k_aux", "threshold_beta", "threshold_start_step", "bandwidth", "target_l0"),
        *("group_fractions", "group_weights", "ghost_threshold", "k_anneal_steps", "sparsity_coefficient"),
        # of earlier versions
        *("lambda", "lambda_warm_steps", "l0_penalty", "sparsity_coeff", "p", "next_p", "gp_reg_coeff"),
        *("sparsity_loss_queue_length", "activation_queue_length", "adaptive_sparsity_penalty"),
        *("steps_before_annealing", "weights_temperature"),
        *("jacobian", "jacobian_coefficient"),  # what this package's matched trainers add
    ),
)
BUFFER = Settings(
    only={"io": ("in", "out", "in_and_out")},
    harmless=(
        *(
            "d_submodule",
            "layer",
            "n_ctxs",
            "ctx_len",
            "refresh_batch_size",
            "out_batch_size",
            "in_batch_size",
            "device",
        ),
        *("remove_bos", "add_special_tokens", "max_activation_norm_multiple"),
    ),
)


@dataclass(frozen=True)
class Dictionary:
    """One class of dictionary: the tensors that it saves, and the transcoder that they make."""

    tensors: Tensors
    parts: Callable[[Mapping[str, Tensor]], Parts]


def likeness(path: Path) -> Likeness:
    """By `trainer` in its config.json; by the name of its weights."""
    if path.is_dir():
        folder, weights = path, (path / WEIGHTS).exists()
    elif path.name == CONFIG:
        folder, weights = path.parent, (path.parent / WEIGHTS).exists()
    elif path.name == WEIGHTS or path.match(CHECKPOINTS):
        folder, weights = folder_of(path), True
    else:
        return Likeness.NONE
    if "trainer" in peek_settings(folder / CONFIG):
        return Likeness.CERTAIN if weights else Likeness.SETTINGS
    return Likeness.WEIGHTS if weights else Likeness.NONE


def folder_of(file: Path) -> Path:
    """Where the config.json of a file of weights stands."""
    return file.parent.parent if file.parent.name == "checkpoints" else file.parent


def read(path: Path, request: Request) -> Transcoder:
    """Any of its dictionaries as a SAELens transcoder that computes the same function.

    Raises:
        FormatError: keys are missing or unknown, a class that is not known here, a file that is no state dict.
    """
    folder, file = (path, path / WEIGHTS) if path.is_dir() else (folder_of(path), path)
    if file.name == CONFIG:
        file = folder / WEIGHTS
    where = folder / CONFIG
    config = SECTIONS.check(TITLE, where, settings_in(TITLE, where))
    trainer = TRAINER.check(f"the trainer of {TITLE}", where, config["trainer"])
    buffer = BUFFER.check(f"the buffer of {TITLE}", where, config.get("buffer", {}))
    if str(trainer["dict_class"]) not in DICTIONARIES:
        known = ", ".join(DICTIONARIES)
        raise FormatError(f"{where}: dict_class {trainer['dict_class']} is not known: choose from {known}")
    autoencoder = buffer.get("io", "in_and_out") in ("in", "out")
    if autoencoder:
        module = trainer.get("submodule_name") or "its module"
        require_autoencoder_asked(where, f"the {buffer['io']}put of {module} (buffer io: {buffer['io']})", request)
    elif "io" in buffer:
        require_transcoder_asked(where, f"buffer io: {buffer['io']}", request)
    weights = tensors_in(file)
    # both ReLU dictionaries are saved as AutoEncoder: AutoEncoderNew is the one with a decoder bias of its own
    require_keys(TITLE, file, weights)
    renamed = trainer["dict_class"] == "AutoEncoder" and "decoder.bias" in weights
    dict_class = "AutoEncoderNew" if renamed else trainer["dict_class"]
    dictionary = DICTIONARIES[dict_class]
    sizes = {
        dimension: (trainer[name], f"{name} in {CONFIG}")
        for dimension, name in (("d", "activation_dim"), ("d_sae", "dict_size"))
        if trainer.get(name) is not None
    }
    tensors = dictionary.tensors.check(
        f"{TITLE}'s {dict_class}", file, weights, sizes=sizes, device=request.device, dtype=request.dtype
    )
    said = {name: trainer.get(name) for name in ("lm_name", "layer", "submodule_name")}
    return transcoder_of(
        **dictionary.parts(tensors),
        metadata={
            "source": "dictionary_learning",
            "model_name": said["lm_name"],
            **said,
            "autoencoder": autoencoder or None,
        },
        where=file,
    )


def _relu(weights: Mapping[str, Tensor]) -> Parts:
    """f = ReLU(W (x - bias) + b), y = D f + bias."""
    W_enc = weights["encoder.weight"].mT
    return {
        "W_enc": W_enc,
        "b_enc": centred(weights["encoder.bias"], W_enc, weights["bias"]),
        "W_dec": weights["decoder.weight"].mT,
        "b_dec": weights["bias"],
    }


def _relu_new(weights: Mapping[str, Tensor]) -> Parts:
    """f = ReLU(W x + b), y = D f + c."""
    return {
        "W_enc": weights["encoder.weight"].mT,
        "b_enc": weights["encoder.bias"],
        "W_dec": weights["decoder.weight"].mT,
        "b_dec": weights["decoder.bias"],
    }


def _gated(weights: Mapping[str, Tensor]) -> Parts:
    """f = 1[u + gate_bias > 0] ReLU(e^r u + mag_bias) with u = W (x - c): a JumpReLU of z = e^r u + mag_bias whose
    threshold is mag_bias - e^r gate_bias, where that is above 0 (S. Rajamanoharan et al., "Improving Dictionary
    Learning with Gated Sparse Autoencoders", 2024)."""
    slope = weights["r_mag"].exp()
    W_enc = weights["encoder.weight"].mT * slope
    return {
        "W_enc": W_enc,
        "b_enc": centred(weights["mag_bias"], W_enc, weights["decoder_bias"]),
        "W_dec": weights["decoder.weight"].mT,
        "b_dec": weights["decoder_bias"],
        "threshold": (weights["mag_bias"] - slope * weights["gate_bias"]).clamp_min(0),
    }


def _jumprelu(weights: Mapping[str, Tensor]) -> Parts:
    """f = ReLU(z 1[z > threshold]) with z = W x + b."""
    parts = {name: weights[name] for name in ("W_enc", "b_enc", "W_dec", "b_dec")}
    return {**parts, "threshold": weights["threshold"].clamp_min(0)}


def _topk(weights: Mapping[str, Tensor]) -> Parts:
    """f = TopK(ReLU(W (x - c) + b)), y = D f + c."""
    W_enc = weights["encoder.weight"].mT
    return {
        "W_enc": W_enc,
        "b_enc": centred(weights["encoder.bias"], W_enc, weights["b_dec"]),
        "W_dec": weights["decoder.weight"].mT,
        "b_dec": weights["b_dec"],
        "k": int(weights["k"]),
    }


def _batch_topk(weights: Mapping[str, Tensor]) -> Parts:
    """As TopK, but with the learned threshold for all features; below 0 it was not learned, and keeps all."""
    W_enc = weights["encoder.weight"].mT
    b_enc = centred(weights["encoder.bias"], W_enc, weights["b_dec"])
    return {
        "W_enc": W_enc,
        "b_enc": b_enc,
        "W_dec": weights["decoder.weight"].mT,
        "b_dec": weights["b_dec"],
        "threshold": weights["threshold"].clamp_min(0).to(b_enc).expand(len(b_enc)),
    }


def _matryoshka(weights: Mapping[str, Tensor]) -> Parts:
    """As BatchTopK: in the finished dictionary all groups of features are active, whose sizes group_sizes has."""
    if (total := int(weights["group_sizes"].sum())) != len(weights["b_enc"]):
        shape, n_features = list(weights["group_sizes"].shape), len(weights["b_enc"])
        raise FormatError(f"group_sizes has shape {shape} and sums to {total}, and there are {n_features} features")
    b_enc = centred(weights["b_enc"], weights["W_enc"], weights["b_dec"])
    return {
        **{name: weights[name] for name in ("W_enc", "W_dec", "b_dec")},
        "b_enc": b_enc,
        "threshold": weights["threshold"].clamp_min(0).to(b_enc).expand(len(b_enc)),
    }


LINEAR = {"encoder.weight": "d_sae d", "encoder.bias": "d_sae", "decoder.weight": "d d_sae"}
DICTIONARIES: dict[str, Dictionary] = {
    "AutoEncoder": Dictionary(Tensors({**LINEAR, "bias": "d"}), _relu),
    "AutoEncoderNew": Dictionary(Tensors({**LINEAR, "decoder.bias": "d"}), _relu_new),
    "GatedAutoEncoder": Dictionary(
        Tensors(
            {
                "encoder.weight": "d_sae d",
                "decoder.weight": "d d_sae",
                "decoder_bias": "d",
                "r_mag": "d_sae",
                "gate_bias": "d_sae",
                "mag_bias": "d_sae",
            }
        ),
        _gated,
    ),
    "JumpReluAutoEncoder": Dictionary(
        Tensors({"W_enc": "d d_sae", "b_enc": "d_sae", "W_dec": "d_sae d", "b_dec": "d", "threshold": "d_sae"}),
        _jumprelu,
    ),
    # the threshold of TopK is an estimate for use_threshold=True, which no dictionary is loaded with
    "AutoEncoderTopK": Dictionary(
        Tensors({**LINEAR, "b_dec": "d", "k": ""}, harmless=("threshold",), whole=("k",)), _topk
    ),
    "BatchTopKSAE": Dictionary(Tensors({**LINEAR, "b_dec": "d", "threshold": ""}, harmless=("k",)), _batch_topk),
    "MatryoshkaBatchTopKSAE": Dictionary(
        Tensors(
            {
                "W_enc": "d d_sae",
                "b_enc": "d_sae",
                "W_dec": "d_sae d",
                "b_dec": "d",
                "threshold": "",
                "group_sizes": "groups",
            },
            harmless=("k",),
            whole=("group_sizes",),
        ),
        _matryoshka,
    ),
}
"""By the name in `dict_class`."""

FORMAT = Format(
    title=TITLE,
    writes=f"{CONFIG} and {WEIGHTS}",
    likeness=likeness,
    read=read,
    folders=(WEIGHTS,),
    checkpoints=(CHECKPOINTS,),
)
