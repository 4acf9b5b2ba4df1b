"""EleutherAI's clt-training, a fork of sparsify: its folders, where they hold a function of one layer."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from sae_lens.saes.transcoder import Transcoder
from torch import Tensor

from faithfulness_plugin.transcoders.formats import sparsify
from faithfulness_plugin.transcoders.formats.files import peek_names, peek_settings, settings_in, tensors_in
from faithfulness_plugin.transcoders.formats.format import Format, Likeness, Request
from faithfulness_plugin.transcoders.formats.parts import require_transcoder_asked, transcoder_of
from faithfulness_plugin.transcoders.formats.rule import YES_OR_NO, FormatError, Settings, Tensors

TITLE = "a clt-training folder"
CONFIG, WEIGHTS = sparsify.CONFIG, sparsify.WEIGHTS
OWN = re.compile(r"(post_enc|post_enc_scale|in_norm|out_norm)|(W_decs|b_decs|W_skips|post_encs|post_enc_scales)\.\d+")
"""Tensors that sparsify does not have."""
SETTINGS = Settings(
    needs=("k", "d_in"),
    reads=("num_latents", "n_targets"),
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
    harmless=(
        # of training, and of how it is spread over devices; divide_cross_layer is of several targets only
        *("expansion_factor", "normalize_decoder", "multi_topk", "dtype", "tp_output", "train_post_encoder"),
        *("divide_cross_layer", "matryoshka_expansion_factors", "matryoshka_k_values"),
    ),
)
ENCODER, DECODER = {"encoder.weight": "d_sae d", "encoder.bias": "d_sae"}, {"W_dec": "d_sae d", "b_dec": "d"}
SHIFT = {"post_enc": "d_sae"}
"""Its own loader takes zeros where there is none."""
SCALE, SKIP, NORMS = {"post_enc_scale": "d_sae"}, {"W_skip": "d d"}, {"in_norm": "one", "out_norm": "one"}


def likeness(path: Path) -> Likeness:
    """By its tensors that sparsify does not have, and by settings that only it has."""
    folder = path if path.is_dir() else path.parent
    if (path != folder and path.name not in (CONFIG, WEIGHTS)) or not (folder / WEIGHTS).exists():
        return Likeness.NONE
    own = any(OWN.fullmatch(name) for name in peek_names(folder / WEIGHTS))
    return Likeness.CERTAIN if own or "n_targets" in peek_settings(folder / CONFIG) else Likeness.NONE


def read(path: Path, request: Request) -> Transcoder:
    """t(x) = s_out [W_dec c (a + p 1[a > 0]) + b_dec (+ W_skip s_in x)] with a = TopK(ReLU(W_enc s_in x + b_enc)), as a
    TopK transcoder: p is post_enc; the scales of `normalize_io`, s_in = sqrt(d) / in_norm and s_out = out_norm /
    sqrt(d), and post_enc_scale c, are folded into its weights.

    Raises:
        FormatError: keys are missing or unknown; several layers are written to.
    """
    folder = path if path.is_dir() else path.parent
    where, file = folder / CONFIG, folder / WEIGHTS
    config = SETTINGS.check(TITLE, where, settings_in(TITLE, where))
    require_transcoder_asked(where, "transcode: true", request)
    if (n_targets := config.get("n_targets", 0)) not in (0, 1):
        raise FormatError(
            f"{where} says n_targets: {n_targets}: it writes to {n_targets} layers, so that it replaces no single "
            "layer and has no Jacobian of one; pass a folder that was trained on one"
        )
    of_target = "s.0" if n_targets == 1 else ""
    needs = {
        **ENCODER,
        **_renamed(DECODER, of_target),
        **_renamed(SKIP if config.get("skip_connection", False) else {}, of_target),
        **_renamed(SCALE if config.get("post_encoder_scale", False) else {}, of_target),
        **(NORMS if config.get("normalize_io", False) else {}),
    }
    # with one target W_dec, b_dec and W_skip are the tensors of that target
    reads = {**_renamed(SHIFT, of_target), **({**DECODER, **SKIP} if of_target else {})}
    sizes = {"d": (config["d_in"], f"d_in in {CONFIG}"), "one": (1, "the number of norms")}
    if config.get("num_latents"):
        sizes["d_sae"] = (config["num_latents"], f"num_latents in {CONFIG}")
    found = Tensors(needs, reads).check(
        TITLE, file, tensors_in(file), sizes=sizes, device=request.device, dtype=request.dtype
    )
    tensors = _of_the_only_target(found, file) if of_target else found
    shift = tensors.get("post_enc")
    return transcoder_of(
        **_folded(tensors),
        post_enc=shift if shift is not None and shift.any() else None,
        k=config["k"],
        metadata={"source": "clt-training", "hookpoint": sparsify.hookpoint_of(folder.resolve())},
        where=file,
    )


def _folded(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """The weights of a transcoder without scales, computed in float64."""
    w = {name: tensor.to(torch.float64) for name, tensor in tensors.items()}
    root = len(w["b_dec"]) ** 0.5
    s_in, s_out = (root / w["in_norm"], w["out_norm"] / root) if "in_norm" in w else (1.0, 1.0)
    decoder = w["W_dec"] * w["post_enc_scale"][:, None] if "post_enc_scale" in w else w["W_dec"]
    made = {
        "W_enc": w["encoder.weight"].mT * s_in,
        "b_enc": w["encoder.bias"],
        "W_dec": decoder * s_out,
        "b_dec": w["b_dec"] * s_out,
        "W_skip": w["W_skip"] * s_in * s_out if "W_skip" in w else None,
    }
    return {name: None if t is None else t.to(tensors["encoder.weight"].dtype) for name, t in made.items()}


def _renamed(shapes: Mapping[str, str], suffix: str) -> dict[str, str]:
    return {f"{name}{suffix}": shape for name, shape in shapes.items()}


def _of_the_only_target(found: Mapping[str, Tensor], file: Path) -> dict[str, Tensor]:
    """The tensors under the names that a coder without targets has: W_decs.0 as W_dec. Raises FormatError where W_dec
    is there, too, and is another tensor."""
    tensors: dict[str, Tensor] = {}
    for name, tensor in found.items():
        plain = name.removesuffix("s.0")
        if plain in tensors and not torch.equal(tensors[plain], tensor):
            raise FormatError(f"{file}: {plain} and {plain}s.0 differ, and are the same tensor with one target")
        tensors[plain] = tensor
    return tensors


FORMAT = Format(title=TITLE, writes=f"{CONFIG} and {WEIGHTS}", likeness=likeness, read=read, folders=(WEIGHTS,))
