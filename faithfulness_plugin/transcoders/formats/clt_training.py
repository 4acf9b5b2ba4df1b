"""EleutherAI's clt-training, a fork of sparsify: its folders, where they hold a function of one layer."""

import re
from collections.abc import Mapping, Set
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from faithfulness_plugin.transcoders.formats.errors import FormatError
from faithfulness_plugin.transcoders.formats.format import Files, Format, Function, Weights
from faithfulness_plugin.transcoders.formats.schema import YES_OR_NO, Settings, Tensors
from faithfulness_plugin.transcoders.formats.sparsify import NAMES, Sparsify, hookpoint_of

OWN = re.compile(r"(post_enc|post_enc_scale|in_norm|out_norm)|(W_decs|b_decs|W_skips|post_encs|post_enc_scales)\.\d+")
"""Tensors that sparsify does not have."""
OF_TARGET = {"W_dec": "d_sae d", "b_dec": "d", "W_skip": "d d", "post_enc": "d_sae", "post_enc_scale": "d_sae"}
"""The tensors that each layer written to has; with one such layer, W_dec is called W_decs.0."""


class CltTraining(Format):
    """t(x) = s_out [W_dec c (a + p 1[a > 0]) + b_dec (+ W_skip s_in x)] with a = TopK(ReLU(W_enc s_in x + b_enc)), as a
    TopK transcoder: p is post_enc; the scales of `normalize_io`, s_in = sqrt(d) / in_norm and s_out = out_norm /
    sqrt(d), and post_enc_scale c, are folded into its weights."""

    title = "a clt-training folder"
    source = "clt-training"
    writes = "cfg.json and sae.safetensors"
    configs, weights, by_name = Sparsify.configs, Sparsify.weights, False
    settings = Settings(
        needs="k d_in",
        reads="n_targets",
        sizes={"d": "d_in", "d_sae": "num_latents"},
        zero_is_unstated="num_latents",
        only={
            "skip_connection": YES_OR_NO,
            "normalize_io": YES_OR_NO,
            "post_encoder_scale": YES_OR_NO,
            "activation": ("topk",),  # "batchtopk" makes rows compete, "groupmax" keeps one feature of each group
            "transcode": (True,),
            "n_sources": (0, 1),
            "coalesce_topk": ("none",),  # all others join the features of several layers
            "topk_coalesced": (False,),
            "per_source_tied": (False,),
            "secondary_target_tied": (False,),
            "use_fp8": (False,),
            "matryoshka": (False,),
        },
        # of training, and of how it is spread over devices; divide_cross_layer is of several targets only
        harmless="""
            expansion_factor normalize_decoder multi_topk dtype tp_output train_post_encoder divide_cross_layer
            matryoshka_expansion_factors matryoshka_k_values
        """,
    )

    @override
    def is_own(self, settings: Set[str], tensors: Set[str]) -> bool:
        return "n_targets" in settings or any(OWN.fullmatch(name) for name in tensors)

    @override
    def function(self, config: Mapping[str, Any], found: Mapping[str, Any], files: Files) -> Function:
        if (n_targets := config.get("n_targets", 0)) not in (0, 1):
            raise FormatError(
                f"{files.config} says n_targets: {n_targets}: it writes to {n_targets} layers, so that it replaces no "
                "single layer and has no Jacobian of one; pass a folder that was trained on one"
            )
        stored = {name: f"{name}s.0" if n_targets == 1 else name for name in OF_TARGET}
        without = {
            name
            for setting, name in (("skip_connection", "W_skip"), ("post_encoder_scale", "post_enc_scale"))
            if not config.get(setting, False)
        }
        of_target = {stored[name]: shape for name, shape in OF_TARGET.items() if name not in without}
        shift = {
            stored["post_enc"]: of_target.pop(stored["post_enc"])
        }  # its own loader takes zeros where there is none
        norms = {"in_norm": "1", "out_norm": "1"} if config.get("normalize_io", False) else {}
        # with one target W_dec, b_dec and W_skip are the tensors of that target
        copies = {
            name: OF_TARGET[name] for name in ("W_dec", "b_dec", "W_skip") if n_targets == 1 and name not in without
        }

        def fold(weights: Weights, parts: dict[str, Tensor]) -> dict[str, Tensor | None]:
            for name in copies.keys() & weights.keys():
                if not torch.equal(weights[name], weights[stored[name]]):
                    raise FormatError(
                        f"{files.weights}: {name} and {stored[name]} differ, and are the same tensor with one target"
                    )
            return _folded(
                parts, weights.get(stored["post_enc_scale"]), weights.get("in_norm"), weights.get("out_norm")
            )

        return Function(
            Tensors(
                {"encoder.weight": "d_sae d", "encoder.bias": "d_sae", **of_target, **norms},
                {**shift, **copies},
                names={**NAMES, **stored},
            ),
            fold=fold,
            in_float64=True,
            arguments={"k": config["k"]},
            metadata={"hookpoint": hookpoint_of(files.folder)},
            transcoder="transcode: true",
        )


def _folded(
    parts: Mapping[str, Tensor], scale: Tensor | None, in_norm: Tensor | None, out_norm: Tensor | None
) -> dict[str, Tensor | None]:
    """Fold the scales into the weights of a transcoder."""
    root = len(parts["b_dec"]) ** 0.5
    s_in = 1.0 if in_norm is None else root / in_norm.item()
    s_out = 1.0 if out_norm is None else out_norm.item() / root
    W_dec, shift = parts["W_dec"], parts.get("post_enc")
    return {
        "W_enc": parts["W_enc"] * s_in,
        "W_dec": (W_dec if scale is None else W_dec * scale[:, None]) * s_out,
        "b_dec": parts["b_dec"] * s_out,
        "W_skip": parts["W_skip"] * s_in * s_out if "W_skip" in parts else None,
        "post_enc": shift if shift is not None and shift.any() else None,
    }
