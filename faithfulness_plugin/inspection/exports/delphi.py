"""The cache of latents that delphi (EleutherAI) explains and scores features from."""

import json
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from safetensors.numpy import save_file
from torch import nn

from faithfulness_plugin.atomic import new_folder
from faithfulness_plugin.export_folder import ExportKind, require_place
from faithfulness_plugin.inspection.exports.examples import require_text
from faithfulness_plugin.inspection.hooked_reading import acts_at, require_fit, rows_of
from faithfulness_plugin.inspection.hooked_transcoder import hooked
from faithfulness_plugin.inspection.sample import Origins, RowSample
from faithfulness_plugin.transcoders.formats.files import peek_settings

LEAST = 1e-5
"""An activation that is no larger is left out, as delphi does."""
SPLITS = 5
"""Files that a transcoder's features are divided among."""


def _owner(folder: Path) -> str | None:
    config = peek_settings(folder / "config.json")
    return f"a transcoder of {config.get('model_name') or 'some model'}" if "cache_ctx_len" in config else None


LATENTS = ExportKind("delphi's latents", r"config\.json|\d+_\d+\.safetensors", _owner)


@torch.no_grad()
def write_delphi_cache(
    transcoder: nn.Module,
    sample: RowSample,
    folder: Path,
    *,
    name: str,
    model_name: str,
    text_name: str = "",
    n_splits: int = SPLITS,
    overwrite: bool = False,
) -> Path:
    """Write a transcoder's activations on a text as delphi's own cache holds them.

    `folder`/`name` gets a file FIRST_LAST.safetensors for each range of features, and config.json. A file has

    - locations [entries, 3]: prompt, position, and feature counted from FIRST (uint16, or uint32 where that is too
      small),
    - activations [entries]: float16 (float32 where they are too large for it),
    - tokens [prompts, positions]: int64, of all prompts, the same in each file.

    Rows that the sample leaves out (special tokens) have no activation. delphi cuts prompts into windows of
    `example_ctx_len` (32): choose a length of prompts that it divides.

    SAEBench's autointerp needs the same three: tokens, the activation of a feature at every position (the locations of
    one feature), and how often each feature fires (the number of its locations).

    Args:
        transcoder: any SAELens transcoder, or a module whose linear region is registered; in `eval` mode.
        sample: rows of a text (`text_sample`).
        folder: where delphi looks for caches, its `raw_dir`.
        name: what delphi calls the module, and the folder in it that is written.
        model_name: the name or folder that delphi loads the tokenizer from.
        text_name: the text, for the record.
        n_splits: how many files to divide the features among; fewer where there are fewer features.
        overwrite: replace latents that are there.

    Returns:
        The folder that was written.

    Raises:
        UsageError: the sample is no text; the transcoder is of another layer; as `require_place`.
        OSError: the folder cannot be written.

    Source: `LatentCache.save_splits`, `save_config` and `TensorBuffer.load` of github.com/EleutherAI/delphi at 3c2e139.
    """
    origins = require_text(sample, "delphi")
    require_place(folder / name, LATENTS, overwrite=overwrite)
    inspected = hooked(transcoder, sample.x[:1])
    require_fit(inspected, sample)
    locations, activations = _entries(inspected, sample, origins)
    n_features, n_tokens = len(inspected.W_dec), origins.tokens.numel()
    bounds = np.unique(np.linspace(0, n_features, n_splits + 1).astype(int))
    config = {
        "dataset_repo": text_name,
        "dataset_split": "",
        "dataset_name": "",
        "dataset_column": "text",
        "batch_size": 1,
        "cache_ctx_len": origins.tokens.shape[1],
        "n_tokens": n_tokens,
        "n_splits": len(bounds) - 1,
        "model_name": model_name,
    }
    tokens = origins.tokens.to(torch.int64).numpy()
    with new_folder(folder / name) as unfinished:
        for first, end in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
            here = (locations[:, 2] >= first) & (locations[:, 2] < end)
            split = {
                "locations": _small(locations[here] - [0, 0, first]),
                "activations": _half(activations[here]),
                "tokens": tokens,
            }
            save_file(split, unfinished / f"{first}_{end - 1}.safetensors")
        (unfinished / "config.json").write_text(json.dumps(config, indent=4), encoding="utf-8")
    return folder / name


def _entries(
    inspected: nn.Module, sample: RowSample, origins: Origins
) -> tuple[Int[np.ndarray, "entries 3"], Float[np.ndarray, " entries"]]:
    """Return prompt, position and feature of each activation, and its value."""
    locations, activations = [], []
    for part, x in rows_of(sample, inspected):  # pyright: ignore[reportArgumentType]  hooked above
        acts = acts_at(inspected, x).cpu()  # pyright: ignore[reportArgumentType]
        row, feature = (acts.abs() > LEAST).nonzero(as_tuple=True)
        activations.append(acts[row, feature].float().numpy())
        locations.append(torch.stack([origins.prompt[part][row], origins.position[part][row], feature], dim=1).numpy())
    return np.concatenate(locations), np.concatenate(activations)


def _small(locations: Int[np.ndarray, "entries 3"]) -> np.ndarray:
    """Return the same numbers in the smallest type that delphi reads."""
    return locations.astype(np.uint16 if locations.max(initial=0) < 2**16 else np.uint32)


def _half(activations: Float[np.ndarray, " entries"]) -> np.ndarray:
    """Return the same numbers in half precision, where they have a place there."""
    fits = np.abs(activations).max(initial=0) <= np.finfo(np.float16).max
    return activations.astype(np.float16) if fits else activations
