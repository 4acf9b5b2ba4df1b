"""transcoder_circuits (J. Dunefsky et al., 2024): one .pt with a pickled object of settings, and a state dict."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from typing_extensions import override

from faithfulness_plugin.transcoders.formats.errors import FormatError
from faithfulness_plugin.transcoders.formats.files import tensors_in, unsafe_globals_in
from faithfulness_plugin.transcoders.formats.format import Files, Format, Function, Likeness
from faithfulness_plugin.transcoders.formats.schema import Settings, Tensors

PATTERN = "*sparse_autoencoder*.pt"
SPARSITY = "_log_feature_sparsity.pt"
CONFIG_CLASS = "LanguageModelSAERunnerConfig"
ENCODER = {"W_enc": "d_in d_sae", "b_enc": "d_sae", "b_dec": "d_in"}
TRANSCODER = Tensors({**ENCODER, "W_dec": "d_sae d_out", "b_dec_out": "d_out"}, names={"b_dec": "b_dec_out"})
AUTOENCODER = Tensors({**ENCODER, "W_dec": "d_sae d_in"})


class _Settings:
    """Stands for the pickled object of settings: it keeps what was pickled, and runs nothing."""


class TranscoderCircuits(Format):
    """t(x) = W_dec ReLU(W_enc (x - b_dec) + b_enc) + b_dec_out: the encoder subtracts one bias, the decoder adds
    another."""

    title = "a transcoder_circuits file"
    source = "transcoder_circuits"
    writes = "final_sparse_autoencoder_MODEL_HOOK_WIDTH.pt"
    checkpoints = (PATTERN,)
    other_names = ("*.pt",)
    own_tensors = frozenset({"cfg", "state_dict", "W_enc", "b_dec"})
    settings = Settings(
        needs="is_transcoder hook_point",
        reads="out_hook_point model_name",
        only={"hook_point_head_index": (None,)},
        sizes={"d_in": "d_in", "d_out": "d_out", "d_sae": "d_sae"},
        # of data, of training, and of losses that the finished function no longer shows
        harmless="""
            hook_point_layer out_hook_point_layer dataset_path is_dataset_tokenized context_size
            use_cached_activations cached_activations_path n_batches_in_buffer total_training_tokens store_batch_size
            tokens_per_buffer device seed dtype run_name expansion_factor b_dec_init_method from_pretrained_path
            l1_coefficient lr lr_scheduler_name lr_warm_up_steps train_batch_size use_ghost_grads
            feature_sampling_window feature_sampling_method resample_batches feature_reinit_scale dead_feature_window
            dead_feature_estimation_method dead_feature_threshold is_sparse_connection sparse_connection_sae_path
            sparse_connection_l1_coeff sparse_connection_use_W_enc log_to_wandb wandb_project wandb_entity
            wandb_log_frequency n_checkpoints checkpoint_path use_tqdm verbose
        """,
    )

    @override
    def likeness(self, path: Path) -> Likeness:
        """Look for a state dict pickled beside settings; in a folder, at the names of its files."""
        if path.is_dir():
            return Likeness.CERTAIN if _files_in(path) else Likeness.NONE
        return super().likeness(path)

    @override
    def files(self, path: Path, layer: int | None = None) -> Files | None:
        if path.is_dir():
            path = _one_of(path, layer)
        elif path.suffix != ".pt":
            return None
        return Files(path.parent, None, path)

    @override
    def opened(self, files: Files) -> tuple[Mapping[str, Any], Any]:
        """Return the settings and the state dict. Besides tensors and plain values nothing but the one class of
        settings is unpickled, as an object without behaviour."""
        file = files.weights
        needs = unsafe_globals_in(file)
        named = [name for name in needs if name.rpartition(".")[2] == CONFIG_CLASS]
        if others := sorted({*needs} - {*named}):
            raise FormatError(
                f"{file} needs {', '.join(others)} to be unpickled, which could run anything: save its cfg as plain "
                "values"
            )
        stand_ins: list[Any] = [(type(CONFIG_CLASS, (_Settings,), {}), name) for name in named]
        with torch.serialization.safe_globals(stand_ins):
            found = tensors_in(file)
        if not isinstance(found, Mapping) or not {"cfg", "state_dict"} <= found.keys():
            raise FormatError(f"{file} looks like {self.title}, and lacks cfg and state_dict")
        config = vars(found["cfg"]) if isinstance(found["cfg"], _Settings) else found["cfg"]
        return self.settings.check(self.title, f"cfg in {file}", config), found["state_dict"]

    @override
    def function(self, config: Mapping[str, Any], found: Mapping[str, Any], files: Files) -> Function:
        transcoder, hook, written = bool(config["is_transcoder"]), config["hook_point"], config.get("out_hook_point")
        if transcoder and not isinstance(written, str):
            raise FormatError(
                f"cfg in {files.weights} says is_transcoder: True, and lacks out_hook_point, where it writes"
            )
        return Function(
            TRANSCODER if transcoder else AUTOENCODER,
            centre="b_dec",
            metadata={
                "model_name": config.get("model_name"),
                "hook_name": hook,
                "hook_name_out": written if transcoder else hook,
            },
            autoencoder=None if transcoder else hook,
        )


def _files_in(folder: Path) -> list[Path]:
    """Find the transcoders in a folder; the publisher's set has one a layer."""
    return sorted(file for file in folder.glob(PATTERN) if not file.name.endswith(SPARSITY))


def _one_of(folder: Path, layer: int | None) -> Path:
    files = _files_in(folder)
    if layer is not None:
        files = [file for file in files if re.search(rf"blocks\.{layer}\.", file.name)]
    if len(files) == 1:
        return files[0]
    there = ", ".join(file.name for file in (files or _files_in(folder)))
    asked = "" if layer is None else f", {len(files) or 'none'} of layer {layer}"
    raise FormatError(f"{folder} holds {there}{asked}: pass one of these files, or layer=, the block in its name")
