"""Transcoders as their publishers write them: one function a format, with its formula in float64 beside it.

A new format adds its function here and its line to `PUBLISHED`; the tests in tests/transcoders/formats then run it
through every kind of fault. Tensors are random and small, and all of their sizes differ where the format lets them.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

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
    """By their names in the file."""
    formula: Formula
    """(the tensors in float64, x [rows, d_in]) -> t(x) [rows, d_out]."""
    write: Callable[[Path, "Published"], Path]
    """Writes it into an empty folder, and returns what is passed to load_transcoder."""
    weights: str
    """The file of the weights, within the folder."""
    settings: dict[str, Any] = field(default_factory=dict)
    """What its settings file holds."""
    config: str | None = None
    """The settings file, within the folder; None for a format without one."""
    sections: tuple[tuple[str, ...], ...] = ((),)
    """Where in the settings an unknown one is refused: () at the top, ("trainer",) in that section."""
    options: dict[str, Any] = field(default_factory=dict)
    """What load_transcoder is passed, too."""
    d_in: int = D
    """The width of what it reads."""

    def with_tensor(self, name: str, tensor: Tensor | None) -> "Published":
        """The same with another tensor, or without it."""
        rest = {other: value for other, value in self.tensors.items() if other != name}
        return replace(self, tensors=rest if tensor is None else {**rest, name: tensor})

    def with_setting(self, section: tuple[str, ...], name: str, value: Any) -> "Published":
        """The same with one more setting."""
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
    """As `trainSAE` leaves a trainer's folder."""
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


PUBLISHED: dict[str, Callable[[], Published]] = {
    "SAELens transcoder": lambda: sae_lens("transcoder"),
    "SAELens skip": lambda: sae_lens("skip_transcoder"),
    "SAELens JumpReLU": lambda: sae_lens("jumprelu_transcoder"),
    "SAELens JumpReLU skip": sae_lens,
    "SAELens, our TopK": sae_lens_topk,
    "sparsify": sparsify,
    **{
        f"dictionary_learning {name}": lambda name=name: dictionary_learning(name)
        for name in (
            *("AutoEncoder", "AutoEncoderNew", "GatedAutoEncoder"),
            *("JumpReluAutoEncoder", "AutoEncoderTopK", "BatchTopKSAE"),
        )
    },
    "circuit-tracer ReLU": circuit_tracer,
    "circuit-tracer JumpReLU": lambda: circuit_tracer("jumprelu"),
    "circuit-tracer TopK": lambda: circuit_tracer("topk"),
    "circuit-tracer TopK, k in the file": lambda: circuit_tracer(k_in_file=True),
}
"""Every format, and every function that it can hold."""
