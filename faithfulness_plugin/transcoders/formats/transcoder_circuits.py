"""transcoder_circuits (J. Dunefsky et al., 2024): one .pt with a pickled object of settings, and a state dict."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from sae_lens.saes.transcoder import Transcoder

from faithfulness_plugin.transcoders.formats.files import tensors_in
from faithfulness_plugin.transcoders.formats.format import Format, Likeness, Request
from faithfulness_plugin.transcoders.formats.parts import centred, require_autoencoder_asked, transcoder_of
from faithfulness_plugin.transcoders.formats.pickled import globals_in, strings_in
from faithfulness_plugin.transcoders.formats.rule import FormatError, Settings, Tensors

TITLE = "a transcoder_circuits file"
WRITES = "final_sparse_autoencoder_MODEL_HOOK_WIDTH.pt"
PATTERN = "*sparse_autoencoder*.pt"
SPARSITY = "_log_feature_sparsity.pt"
CONFIG_CLASS = "LanguageModelSAERunnerConfig"
SETTINGS = Settings(
    needs=("is_transcoder", "hook_point"),
    reads=("out_hook_point", "model_name", "d_in", "d_out", "d_sae"),
    only={"hook_point_head_index": (None,)},
    # of data, of training, and of losses that the finished function no longer shows
    harmless=(
        *("hook_point_layer", "out_hook_point_layer", "dataset_path", "is_dataset_tokenized", "context_size"),
        *("use_cached_activations", "cached_activations_path", "n_batches_in_buffer", "total_training_tokens"),
        *("store_batch_size", "tokens_per_buffer", "device", "seed", "dtype", "run_name", "expansion_factor"),
        *("b_dec_init_method", "from_pretrained_path", "l1_coefficient", "lr", "lr_scheduler_name"),
        *("lr_warm_up_steps", "train_batch_size", "use_ghost_grads", "feature_sampling_window"),
        *("feature_sampling_method", "resample_batches", "feature_reinit_scale", "dead_feature_window"),
        *("dead_feature_estimation_method", "dead_feature_threshold", "is_sparse_connection"),
        *("sparse_connection_sae_path", "sparse_connection_l1_coeff", "sparse_connection_use_W_enc"),
        *("log_to_wandb", "wandb_project", "wandb_entity", "wandb_log_frequency", "n_checkpoints", "checkpoint_path"),
        *("use_tqdm", "verbose"),
    ),
)
TENSORS = Tensors(
    needs={
        "W_enc": "d_in d_sae",
        "b_enc": "d_sae",
        "W_dec": "d_sae d_out",
        "b_dec": "d_in",
        "b_dec_out": "d_out",
    }
)
AUTOENCODER = Tensors(needs={"W_enc": "d_in d_sae", "b_enc": "d_sae", "W_dec": "d_sae d_in", "b_dec": "d_in"})


class _Settings:
    """Stands for the pickled object of settings: it keeps what was pickled, and runs nothing."""


def files_in(folder: Path) -> list[Path]:
    """The transcoders in a folder; the publisher's set has one a layer."""
    return sorted(file for file in folder.glob(PATTERN) if not file.name.endswith(SPARSITY))


def likeness(path: Path) -> Likeness:
    """By what is pickled: a state dict beside settings. Of a folder, by the names of its files."""
    if path.is_dir():
        return Likeness.CERTAIN if files_in(path) else Likeness.NONE
    if path.suffix != ".pt":
        return Likeness.NONE
    if strings_in(path) >= {"cfg", "state_dict", "W_enc", "b_dec"}:
        return Likeness.CERTAIN
    return Likeness.WEIGHTS if path.match(PATTERN) and not path.name.endswith(SPARSITY) else Likeness.NONE


def read(path: Path, request: Request) -> Transcoder:
    """t(x) = W_dec ReLU(W_enc (x - b_dec) + b_enc) + b_dec_out: the encoder subtracts one bias, the decoder adds
    another."""
    file = _one_of(path, request.layer) if path.is_dir() else path
    config, found = _unpickled(file)
    where = f"cfg in {file}"
    config = SETTINGS.check(TITLE, where, config)
    transcoder, hook = bool(config["is_transcoder"]), config["hook_point"]
    if not transcoder:
        require_autoencoder_asked(where, hook, request)
    elif not isinstance(config.get("out_hook_point"), str):
        raise FormatError(f"{where} says is_transcoder: True, and lacks out_hook_point, where it writes")
    written = config["out_hook_point"] if transcoder else hook
    names = ("d_in", "d_sae", *(("d_out",) if transcoder and config.get("d_out") is not None else ()))
    sizes = {name: (config[name], f"{name} in cfg") for name in names if name in config}
    tensors = TENSORS if transcoder else AUTOENCODER
    weights = tensors.check(TITLE, file, found, sizes=sizes, device=request.device, dtype=request.dtype)
    metadata = {
        "source": "transcoder_circuits",
        "model_name": config.get("model_name"),
        "hook_name": hook,
        "hook_name_out": written,
    }
    return transcoder_of(
        W_enc=weights["W_enc"],
        b_enc=centred(weights["b_enc"], weights["W_enc"], weights["b_dec"]),
        W_dec=weights["W_dec"],
        b_dec=weights["b_dec_out" if transcoder else "b_dec"],
        metadata=metadata | ({} if transcoder else {"autoencoder": True}),
        where=file,
    )


def _one_of(folder: Path, layer: int | None) -> Path:
    files = files_in(folder)
    if layer is not None:
        files = [file for file in files if re.search(rf"blocks\.{layer}\.", file.name)]
    if len(files) == 1:
        return files[0]
    there = ", ".join(file.name for file in (files or files_in(folder)))
    asked = "" if layer is None else f", {len(files) or 'none'} of layer {layer}"
    raise FormatError(f"{folder} holds {there}{asked}: pass one of these files, or layer=, the block in its name")


def _unpickled(file: Path) -> tuple[Mapping[str, Any], Any]:
    """The settings and the state dict. Besides tensors and plain values nothing but the one class of settings is
    unpickled, as an object without behaviour."""
    needs = globals_in(file)
    named = [name for name in needs if name.rpartition(".")[2] == CONFIG_CLASS]
    if others := sorted({*needs} - {*named}):
        raise FormatError(
            f"{file} needs {', '.join(others)} to be unpickled, which could run anything: save its cfg as plain values"
        )
    stand_ins: list[Any] = [(type(CONFIG_CLASS, (_Settings,), {}), name) for name in named]
    with torch.serialization.safe_globals(stand_ins):
        found = tensors_in(file)
    if not isinstance(found, Mapping) or not {"cfg", "state_dict"} <= found.keys():
        raise FormatError(f"{file} looks like {TITLE}, and lacks cfg and state_dict")
    config, state = found["cfg"], found["state_dict"]
    return (vars(config) if isinstance(config, _Settings) else config), state


FORMAT = Format(title=TITLE, writes=WRITES, likeness=likeness, read=read, checkpoints=(PATTERN,))
