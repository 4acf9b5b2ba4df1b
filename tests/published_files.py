"""Transcoders as their publishers write them: one function a format, with its formula in float64 beside it.

A new format adds its function here and its line to `PUBLISHED`; the tests in tests/transcoders/formats then run it
through every kind of fault. Tensors are random and small, and all of their sizes differ where the format lets them.
"""

import json
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor

D, OUT, N, K = 6, 7, 20, 3
Weights = dict[str, Tensor]
Formula = Callable[[Weights, Tensor], Tensor]


@dataclass(frozen=True)
class Published:
    """One transcoder in one format."""

    tensors: Weights
    """The tensors by their names in the file."""
    formula: Formula
    """(the tensors in float64, x [rows, d_in]) -> t(x) [rows, d_out]."""
    write: Callable[[Path, "Published"], Path]
    """Write it into an empty folder, and return what is passed to load_transcoder."""
    weights: str
    """The file of the weights, within the folder."""
    settings: dict[str, Any] = field(default_factory=dict)
    """The contents of its settings file."""
    config: str | None = None
    """The settings file, within the folder; None for a format without one."""
    sections: tuple[tuple[str, ...], ...] = ((),)
    """The sections of the settings in which an unknown one is refused: () is the top, ("trainer",) that section."""
    options: dict[str, Any] = field(default_factory=dict)
    """Options for load_transcoder."""
    d_in: int = D
    """The width of what it reads."""

    def with_tensor(self, name: str, tensor: Tensor | None) -> "Published":
        """Replace a tensor, or leave it out."""
        rest = {other: value for other, value in self.tensors.items() if other != name}
        return replace(self, tensors=rest if tensor is None else {**rest, name: tensor})

    def with_setting(self, section: tuple[str, ...], name: str, value: Any) -> "Published":
        """Add a setting, or replace it."""
        settings = json.loads(json.dumps(self.settings))
        inner = settings
        for key in section:
            inner = inner[key]
        inner[name] = value
        return replace(self, settings=settings)


def jump(z: Tensor, threshold: Tensor) -> Tensor:
    """JumpReLU."""
    return z * (z > threshold)


def topk(z: Tensor, k: int) -> Tensor:
    """The k largest of each row, where positive."""
    kept = torch.zeros_like(z).scatter(-1, z.topk(k).indices, 1.0)
    return z.relu() * kept


def safetensors_and_json(folder: Path, it: Published) -> Path:
    """A folder with a .safetensors file and a .json file."""
    assert it.config is not None
    (folder / it.weights).parent.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in it.tensors.items()}, folder / it.weights)
    (folder / it.config).write_text(json.dumps(it.settings))
    return folder


# SAELens -------------------------------------------------------------------------------------------


def sae_lens(architecture: str = "jumprelu_skip_transcoder", **settings: Any) -> Published:
    """`SAE.save_model` of SAELens 6.54."""
    tensors = {
        "W_enc": torch.randn(D, N),
        "b_enc": torch.randn(N),
        "W_dec": torch.randn(N, OUT),
        "b_dec": torch.randn(OUT),
    }
    if "jumprelu" in architecture:
        tensors["threshold"] = torch.rand(N)
    if "skip" in architecture or settings.get("skip"):
        tensors["W_skip"] = torch.randn(OUT, D)

    def formula(w: Weights, x: Tensor) -> Tensor:
        z = x @ w["W_enc"] + w["b_enc"]
        if architecture == "faithful_topk_transcoder":
            z = z.relu() * (topk(z * w["W_dec"].norm(dim=-1), K) > 0)
        elif "threshold" in w:
            z = jump(z, w["threshold"])
        y = z.relu() @ w["W_dec"] + w["b_dec"]
        return y + x @ w["W_skip"].T if "W_skip" in w else y

    return Published(
        tensors,
        formula,
        safetensors_and_json,
        "sae_weights.safetensors",
        {
            "d_in": D,
            "d_sae": N,
            "dtype": "float32",
            "device": "cpu",
            "apply_b_dec_to_input": False,
            "normalize_activations": "none",
            "reshape_activations": "none",
            "metadata": {
                "sae_lens_version": "6.54.12",
                "model_name": "tiny",
                "hook_name": "blocks.1.mlp.hook_in",
                "hook_name_out": "blocks.1.mlp.hook_out",
            },
            "d_out": OUT,
            "architecture": architecture,
            **settings,
        },
        "cfg.json",
    )


def sae_lens_topk() -> Published:
    """`save_inference_model` of this package's TopK transcoder, with a skip connection."""
    own = {"k": K, "rescale_acts_by_decoder_norm": True, "skip": True}
    return sae_lens("faithful_topk_transcoder", **own)


# sparsify ------------------------------------------------------------------------------------------


def sparsify(**settings: Any) -> Published:
    """`SparseCoder.save_to_disk` of sparsify 1.3."""
    tensors = {
        "encoder.weight": torch.randn(N, D),
        "encoder.bias": torch.randn(N),
        "W_dec": torch.randn(N, D),
        "b_dec": torch.randn(D),
        "W_skip": torch.randn(D, D),
    }

    def formula(w: Weights, x: Tensor) -> Tensor:
        at = x if config["transcode"] else x - w["b_dec"]
        return topk(at @ w["encoder.weight"].T + w["encoder.bias"], K) @ w["W_dec"] + w["b_dec"] + x @ w["W_skip"].T

    config = {
        "activation": "topk",
        "expansion_factor": 32,
        "normalize_decoder": True,
        "num_latents": N,
        "k": K,
        "multi_topk": False,
        "skip_connection": True,
        "transcode": True,
        "d_in": D,
        **settings,
    }
    return Published(tensors, formula, safetensors_and_json, "sae.safetensors", config, "cfg.json")


# clt-training ----------------------------------------------------------------------------------------


def clt_training(n_targets: int = 0) -> Published:
    """`SparseCoder.save_to_disk` of clt-training, with one target or none, and all of its scales."""
    common = {"encoder.weight": torch.randn(N, D), "encoder.bias": torch.randn(N)}
    one = {"W_dec": torch.randn(N, D), "b_dec": torch.randn(D), "W_skip": torch.randn(D, D)}
    one |= {"post_enc": torch.randn(N), "post_enc_scale": torch.randn(N)}
    norms = {"in_norm": torch.tensor([3.1]), "out_norm": torch.tensor([0.7])}
    tensors = {**common, **norms, **({f"{name}s.0": t for name, t in one.items()} if n_targets else one)}

    def formula(w: Weights, x: Tensor) -> Tensor:
        w = {name.removesuffix("s.0"): tensor for name, tensor in w.items()}
        x = x * (D**0.5 / w["in_norm"])
        acts = topk(x @ w["encoder.weight"].T + w["encoder.bias"], K)
        acts = (acts + w["post_enc"] * (acts > 0)) * w["post_enc_scale"]
        return (acts @ w["W_dec"] + w["b_dec"] + x @ w["W_skip"].T) * (w["out_norm"] / D**0.5)

    config = {
        "dtype": "none",
        "activation": "topk",
        "expansion_factor": 32,
        "normalize_decoder": False,
        "num_latents": N,
        "k": K,
        "multi_topk": False,
        "skip_connection": True,
        "transcode": True,
        "tp_output": True,
        "n_targets": n_targets,
        "n_sources": 0,
        "normalize_io": True,
        "divide_cross_layer": False,
        "train_post_encoder": True,
        "post_encoder_scale": True,
        "per_source_tied": False,
        "secondary_target_tied": False,
        "coalesce_topk": "none",
        "topk_coalesced": False,
        "use_fp8": False,
        "d_in": D,
    }
    return Published(tensors, formula, safetensors_and_json, "sae.safetensors", config, "cfg.json")


# dictionary_learning -------------------------------------------------------------------------------

TRAINER = {
    "trainer_class": "T",
    "lr": 1e-3,
    "steps": 9,
    "seed": 0,
    "device": "cpu",
    "wandb_name": "w",
    "warmup_steps": 1,
}


def state_dict_and_json(folder: Path, it: Published) -> Path:
    """Write a folder as `trainSAE` leaves it."""
    assert it.config is not None
    torch.save(it.tensors, folder / it.weights)
    (folder / it.config).write_text(json.dumps(it.settings))
    return folder


def dictionary_learning(dict_class: str, io: str = "in_and_out") -> Published:
    """`trainSAE` of dictionary_learning 0.1, for each class of dictionary."""
    linear = {"encoder.weight": torch.randn(N, D), "encoder.bias": torch.randn(N), "decoder.weight": torch.randn(D, N)}
    tensors, formula = {
        "AutoEncoder": ({**linear, "bias": torch.randn(D)}, _auto_encoder),
        "AutoEncoderNew": ({**linear, "decoder.bias": torch.randn(D)}, _auto_encoder_new),
        "GatedAutoEncoder": (
            {
                "decoder_bias": torch.randn(D),
                "r_mag": torch.randn(N) / 2,
                "gate_bias": torch.randn(N),
                "mag_bias": torch.randn(N),
                "encoder.weight": torch.randn(N, D),
                "decoder.weight": torch.randn(D, N),
            },
            _gated,
        ),
        "JumpReluAutoEncoder": (
            {
                "W_enc": torch.randn(D, N),
                "b_enc": torch.randn(N),
                "W_dec": torch.randn(N, D),
                "b_dec": torch.randn(D),
                "threshold": torch.rand(N),
            },
            _jump_relu,
        ),
        "AutoEncoderTopK": (
            {"b_dec": torch.randn(D), "k": torch.tensor(K, dtype=torch.int), "threshold": torch.tensor(-1.0), **linear},
            _top_k,
        ),
        "BatchTopKSAE": (
            {"b_dec": torch.randn(D), "k": torch.tensor(K, dtype=torch.int), "threshold": torch.tensor(0.7), **linear},
            _batch_top_k,
        ),
        "MatryoshkaBatchTopKSAE": (
            {
                "W_enc": torch.randn(D, N),
                "b_enc": torch.randn(N),
                "W_dec": torch.randn(N, D),
                "b_dec": torch.randn(D),
                "k": torch.tensor(K, dtype=torch.int),
                "threshold": torch.tensor(0.7),
                "group_sizes": torch.tensor([4, N - 4]),
            },
            _matryoshka,
        ),
    }[dict_class]
    # AutoEncoderNew is trained and saved under the name AutoEncoder
    said = "AutoEncoder" if dict_class == "AutoEncoderNew" else dict_class
    trainer = {**TRAINER, "dict_class": said, "activation_dim": D, "dict_size": N, "layer": 1, "lm_name": "tiny"}
    buffer = {
        "d_submodule": D,
        "io": io,
        "n_ctxs": 9,
        "ctx_len": 8,
        "refresh_batch_size": 2,
        "out_batch_size": 2,
        "device": "cpu",
    }
    return Published(
        tensors,
        formula,
        state_dict_and_json,
        "ae.pt",
        {"trainer": {**trainer, "submodule_name": "mlp_1"}, "buffer": buffer},
        "config.json",
        sections=((), ("trainer",), ("buffer",)),
    )


def _auto_encoder(w: Weights, x: Tensor) -> Tensor:
    z = (x - w["bias"]) @ w["encoder.weight"].T + w["encoder.bias"]
    return z.relu() @ w["decoder.weight"].T + w["bias"]


def _auto_encoder_new(w: Weights, x: Tensor) -> Tensor:
    return (x @ w["encoder.weight"].T + w["encoder.bias"]).relu() @ w["decoder.weight"].T + w["decoder.bias"]


def _gated(w: Weights, x: Tensor) -> Tensor:
    u = (x - w["decoder_bias"]) @ w["encoder.weight"].T
    f = (u + w["gate_bias"] > 0) * (w["r_mag"].exp() * u + w["mag_bias"]).relu()
    return f @ w["decoder.weight"].T + w["decoder_bias"]


def _jump_relu(w: Weights, x: Tensor) -> Tensor:
    return jump(x @ w["W_enc"] + w["b_enc"], w["threshold"]).relu() @ w["W_dec"] + w["b_dec"]


def _top_k(w: Weights, x: Tensor) -> Tensor:
    z = (x - w["b_dec"]) @ w["encoder.weight"].T + w["encoder.bias"]
    return topk(z, int(w["k"])) @ w["decoder.weight"].T + w["b_dec"]


def _batch_top_k(w: Weights, x: Tensor) -> Tensor:
    z = ((x - w["b_dec"]) @ w["encoder.weight"].T + w["encoder.bias"]).relu()
    return jump(z, w["threshold"]) @ w["decoder.weight"].T + w["b_dec"]


def _matryoshka(w: Weights, x: Tensor) -> Tensor:
    z = ((x - w["b_dec"]) @ w["W_enc"] + w["b_enc"]).relu()
    return jump(z, w["threshold"]) @ w["W_dec"] + w["b_dec"]


# circuit-tracer ------------------------------------------------------------------------------------


def layer_and_yaml(folder: Path, it: Published) -> Path:
    """A set of one layer."""
    assert it.config is not None
    save_file({name: tensor.contiguous() for name, tensor in it.tensors.items()}, folder / it.weights)
    (folder / it.config).write_text(yaml.safe_dump(it.settings))
    return folder


def circuit_tracer(activation: str | None = None, *, k_in_file: bool = False) -> Published:
    """`TranscoderSet.to_safetensors` of circuit-tracer 0.5, and its config.yaml."""
    tensors = {
        "W_enc": torch.randn(N, D),
        "b_enc": torch.randn(N),
        "W_dec": torch.randn(N, D),
        "b_dec": torch.randn(D),
        "W_skip": torch.randn(D, D),
    }
    if activation == "jumprelu":
        tensors["activation_function.threshold"] = torch.rand(N)
    if k_in_file:
        tensors["k"] = torch.tensor(K)

    def formula(w: Weights, x: Tensor) -> Tensor:
        z = x @ w["W_enc"].T + w["b_enc"]
        if activation == "topk" or "k" in w:
            a = z * torch.zeros_like(z).scatter(-1, z.topk(K).indices, 1.0)  # whatever their sign
        else:
            a = jump(z, w.get("activation_function.threshold", torch.zeros(N, dtype=z.dtype)))
        return a @ w["W_dec"] + w["b_dec"] + x @ w["W_skip"].T

    settings = {
        "model_name": "tiny",
        "model_kind": "transcoder_set",
        "feature_input_hook": "mlp.hook_in",
        "feature_output_hook": "mlp.hook_out",
        "scan": "owner/set",
    }
    if activation is not None:
        settings["activation"] = activation
    if activation == "topk" and not k_in_file:
        settings |= {"k": K}
    return Published(tensors, formula, layer_and_yaml, "layer_0.safetensors", settings, "config.yaml")


# Gemma Scope ---------------------------------------------------------------------------------------


def npz(folder: Path, it: Published) -> Path:
    """A folder with an .npz file."""
    arrays: dict[str, Any] = {name: tensor.numpy() for name, tensor in it.tensors.items()}
    np.savez(folder / it.weights, **arrays)
    return folder


def gemma_scope() -> Published:
    """A folder of google/gemma-scope-2b-pt-transcoders."""
    tensors = {
        "W_enc": torch.randn(D, N),
        "W_dec": torch.randn(N, D),
        "b_enc": torch.randn(N),
        "b_dec": torch.randn(D),
        "threshold": torch.rand(N),
    }

    def formula(w: Weights, x: Tensor) -> Tensor:
        return jump(x @ w["W_enc"] + w["b_enc"], w["threshold"]) @ w["W_dec"] + w["b_dec"]

    return Published(tensors, formula, npz, "params.npz")


def gemma_scope_2(*, affine: bool = True) -> Published:
    """A folder of google/gemma-scope-2-1b-pt. The affine connection is kept as [d_in, d_out]."""
    out = OUT if affine else D
    tensors = {
        "w_enc": torch.randn(D, N),
        "w_dec": torch.randn(N, out),
        "b_enc": torch.randn(N),
        "b_dec": torch.randn(out),
        "threshold": torch.rand(N),
    }
    if affine:
        tensors["affine_skip_connection"] = torch.randn(D, out)

    def formula(w: Weights, x: Tensor) -> Tensor:
        y = jump(x @ w["w_enc"] + w["b_enc"], w["threshold"]) @ w["w_dec"] + w["b_dec"]
        return y + x @ w["affine_skip_connection"] if affine else y

    settings = {
        "hf_hook_point_in": "model.layers.13.pre_feedforward_layernorm.output",
        "hf_hook_point_out": "model.layers.13.post_feedforward_layernorm.output",
        "width": N,
        "model_name": "gemma-v3-1b-pt",
        "architecture": "jump_relu",
        "l0": 9,
        "affine_connection": affine,
        "type": "transcoder",
    }
    return Published(tensors, formula, safetensors_and_json, "params.safetensors", settings, "config.json")


# transcoder_circuits -------------------------------------------------------------------------------


class LanguageModelSAERunnerConfig:
    """The class that its settings are pickled as, which is not there where they are read."""


LanguageModelSAERunnerConfig.__module__ = "sae_training.config"


def pickled(folder: Path, it: Published) -> Path:
    """`SparseAutoencoder.save_model`: an object of settings beside the state dict."""
    config = LanguageModelSAERunnerConfig()
    vars(config).update({**it.settings, "dtype": torch.float32, "device": torch.device("cpu")})
    module = types.ModuleType("sae_training.config")
    module.LanguageModelSAERunnerConfig = LanguageModelSAERunnerConfig  # pyright: ignore[reportAttributeAccessIssue]
    there = {"sae_training": types.ModuleType("sae_training"), "sae_training.config": module}
    with patch.dict(sys.modules, there):  # pickling looks the class up
        torch.save({"cfg": config, "state_dict": it.tensors}, folder / it.weights)
    return folder / it.weights


def transcoder_circuits() -> Published:
    """A file of pchlenski/gpt2-transcoders."""
    tensors = {
        "W_enc": torch.randn(D, N),
        "b_enc": torch.randn(N),
        "W_dec": torch.randn(N, OUT),
        "b_dec": torch.randn(D),
        "b_dec_out": torch.randn(OUT),
    }

    def formula(w: Weights, x: Tensor) -> Tensor:
        return ((x - w["b_dec"]) @ w["W_enc"] + w["b_enc"]).relu() @ w["W_dec"] + w["b_dec_out"]

    settings = {
        "model_name": "gpt2-small",
        "hook_point": "blocks.8.ln2.hook_normalized",
        "hook_point_layer": 8,
        "hook_point_head_index": None,
        "is_transcoder": True,
        "out_hook_point": "blocks.8.hook_mlp_out",
        "out_hook_point_layer": 8,
        "d_in": D,
        "d_out": OUT,
        "d_sae": N,
        "l1_coefficient": 1.4e-4,
        "use_ghost_grads": True,
        "feature_sampling_method": None,
        "is_sparse_connection": False,
    }
    file = "final_sparse_autoencoder_gpt2-small_blocks.8.ln2.hook_normalized_20.pt"
    return Published(tensors, formula, pickled, file, settings, file)


# llamascopium --------------------------------------------------------------------------------------

LLAMA_SCOPE = {
    "device": "cuda:0",
    "seed": 42,
    "dtype": "torch.bfloat16",
    "hook_point_in": "blocks.8.ln2.hook_normalized",
    "hook_point_out": "blocks.8.hook_mlp_out",
    "use_decoder_bias": True,
    "d_model": D,
    "norm_activation": "dataset-wise",
    "sparsity_include_decoder_norm": True,
    "use_glu_encoder": False,
    "top_k": K,
}
NORMS = {"in": 3.5, "out": 0.75}


def llama_scope() -> Published:
    """A folder of fnlp/Llama3_1-8B-Base-LXTC-8x (2024): one threshold, compared after norms and scales are folded."""
    tensors = {
        "encoder.weight": torch.randn(N, D),
        "encoder.bias": torch.randn(N),
        "decoder.weight": torch.randn(D, N),
        "decoder.bias": torch.randn(D),
    }

    def formula(w: Weights, x: Tensor) -> Tensor:
        s_in, s_out = D**0.5 / NORMS["in"], D**0.5 / NORMS["out"]
        decoder = w["decoder.weight"] * s_in / s_out
        norms = decoder.norm(dim=0)
        z = (x @ w["encoder.weight"].T + w["encoder.bias"] / s_in) * norms
        return jump(z, torch.tensor(0.5)) @ (decoder / norms).T + w["decoder.bias"] / s_out

    settings = {
        **LLAMA_SCOPE,
        "apply_decoder_bias_to_pre_encoder": False,
        "expansion_factor": 8,
        "d_sae": N,
        "act_fn": "jumprelu",
        "jump_relu_threshold": 0.5,
        "dataset_average_activation_norm": NORMS,
        "lp": 1,
        "l1_coefficient": 8e-05,
        "tp_size": 1,
    }
    return Published(
        tensors, formula, safetensors_and_json, "checkpoints/final.safetensors", settings, "hyperparams.json"
    )


def llamascopium(act_fn: str, norm_activation: str = "dataset-wise") -> Published:
    """`SparseAutoEncoder.save_pretrained` of llamascopium 2: the average norms stand beside the weights."""
    tensors = {
        "W_E": torch.randn(D, N),
        "b_E": torch.randn(N),
        "W_D": torch.randn(N, D),
        "b_D": torch.randn(D),
    }
    if norm_activation == "dataset-wise":
        for end in ("in", "out"):
            hook = LLAMA_SCOPE[f"hook_point_{end}"]
            tensors[f"dataset_average_activation_norm.{hook}"] = torch.tensor(NORMS[end])
    if act_fn == "jumprelu":
        tensors["activation_function.log_jumprelu_threshold"] = torch.randn(N) / 2

    def formula(w: Weights, x: Tensor) -> Tensor:
        scaled = norm_activation == "dataset-wise"
        s_in, s_out = (D**0.5 / NORMS[end] if scaled else 1.0 for end in ("in", "out"))
        norms = w["W_D"].norm(dim=1)
        z = (s_in * x @ w["W_E"] + w["b_E"]) * norms
        if act_fn == "jumprelu":
            a = jump(z, w["activation_function.log_jumprelu_threshold"].exp())
        else:
            a = topk(z, K) if act_fn == "topk" else z.relu()
        return (a / norms @ w["W_D"] + w["b_D"]) / s_out

    settings = {
        **LLAMA_SCOPE,
        "sae_type": "sae",
        "expansion_factor": N / D,
        "act_fn": act_fn,
        "norm_activation": norm_activation,
        "jumprelu_threshold_window": 2.0,
        "use_triton_kernel": False,
        "sparsity_threshold_for_triton_spmm_kernel": 0.996,
    }
    return Published(tensors, formula, safetensors_and_json, "sae_weights.safetensors", settings, "config.json")


PUBLISHED: dict[str, Callable[[], Published]] = {
    "SAELens transcoder": lambda: sae_lens("transcoder"),
    "SAELens skip": lambda: sae_lens("skip_transcoder"),
    "SAELens JumpReLU": lambda: sae_lens("jumprelu_transcoder"),
    "SAELens JumpReLU skip": sae_lens,
    "SAELens, our TopK": sae_lens_topk,
    "sparsify": sparsify,
    "clt-training": clt_training,
    "clt-training, one target": lambda: clt_training(1),
    **{
        f"dictionary_learning {name}": lambda name=name: dictionary_learning(name)
        for name in (
            *("AutoEncoder", "AutoEncoderNew", "GatedAutoEncoder"),
            *("JumpReluAutoEncoder", "AutoEncoderTopK", "BatchTopKSAE", "MatryoshkaBatchTopKSAE"),
        )
    },
    "circuit-tracer ReLU": circuit_tracer,
    "circuit-tracer JumpReLU": lambda: circuit_tracer("jumprelu"),
    "circuit-tracer TopK": lambda: circuit_tracer("topk"),
    "circuit-tracer TopK, k in the file": lambda: circuit_tracer(k_in_file=True),
    "Gemma Scope": gemma_scope,
    "Gemma Scope 2": lambda: gemma_scope_2(affine=False),
    "Gemma Scope 2, affine": gemma_scope_2,
    "transcoder_circuits": transcoder_circuits,
    "Llama Scope": llama_scope,
    "llamascopium ReLU": lambda: llamascopium("relu"),
    "llamascopium JumpReLU": lambda: llamascopium("jumprelu"),
    "llamascopium TopK": lambda: llamascopium("topk"),
    "llamascopium TopK, folded": lambda: llamascopium("topk", "inference"),
}
"""Every format, and every function that it can hold."""
