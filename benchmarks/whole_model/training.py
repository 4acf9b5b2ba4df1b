"""Train a set of transcoders, one for each layer; those that are saved already are loaded."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from faithfulness_plugin.atomic import new_folder
from faithfulness_plugin.benchmarks.real_layers.training import DEAD_WINDOW
from faithfulness_plugin.benchmarks.whole_model.bench import ModelBench
from faithfulness_plugin.benchmarks.whole_model.config import SetRun
from faithfulness_plugin.benchmarks.whole_model.second_phase import second_phase
from faithfulness_plugin.language_model.train_stored import note_origin
from faithfulness_plugin.store import StoredRows
from faithfulness_plugin.training.train import train_transcoder
from faithfulness_plugin.transcoders.load import load_transcoder
from faithfulness_plugin.transcoders.seeded import made_with_seed


class TrainedSet(NamedTuple):
    """A set of transcoders in `eval` mode."""

    transcoders: Mapping[int, Any]
    """By block."""
    seconds: float | None
    """How long this call trained; None where all transcoders were saved."""


def trained_set(run: SetRun, model: ModelBench, folder: Path, note: Callable[[str], None]) -> TrainedSet:
    """Train what is not saved of a set, and save it, block by block; then the second phase, where the arm has one.

    Args:
        run: which set; what it begins with is in the same folder, or is trained first.
        model: the model, as it is.
        folder: of all sets.
        note: receives a line about what is being done.

    Returns:
        The set, read from what is saved.
    """
    run = run.trained
    begun, places = time.perf_counter(), {block: folder / run.folder / f"block{block}" for block in model.layers}
    missing = [block for block, place in places.items() if not place.exists()]
    if missing and run.arm.then is not None:
        trained_set(run.before, model, folder, note)
        note(f"training end to end: {run.name}")
        transcoders = {block: _reopened(run, block, model, folder / run.before.folder) for block in model.layers}
        second_phase(transcoders, model, run, note)
        for block, transcoder in transcoders.items():
            _save(transcoder, places[block])
    else:
        for n, block in enumerate(missing):
            note(f"training: {run.name}, block {block} ({n + 1} of {len(missing)})")
            _save(_trained(run, block, model), places[block])
    transcoders = {block: load_transcoder(place).eval() for block, place in places.items()}
    return TrainedSet(transcoders, time.perf_counter() - begun if missing else None)


def _save(transcoder: Any, folder: Path) -> None:
    with new_folder(folder) as unfinished:
        transcoder.save_inference_model(unfinished)


def _untrained(run: SetRun, block: int, model: ModelBench) -> Any:
    config, index = model.config, model.stores[block].index
    cfg = run.arm.arm.config(
        config.kind, run.seed, d_in=index.d_in, d_out=index.d_out, d_sae=config.d_sae, device=config.device
    )
    transcoder = made_with_seed(cfg, run.seed)
    note_origin(transcoder, model.source.title, model.layers[block], config)
    return transcoder


def _reopened(run: SetRun, block: int, model: ModelBench, folder: Path) -> Any:
    """Make a transcoder that can be trained further of one that was saved: the same function."""
    transcoder = _untrained(run, block, model)
    transcoder.load_state_dict(load_transcoder(folder / f"block{block}").state_dict())
    return transcoder


def _trained(run: SetRun, block: int, model: ModelBench) -> Any:
    config, transcoder = model.config, _untrained(run, block, model)
    rows = StoredRows(model.stores[block], None, batch_size=config.batch_size, seed=run.seed)
    train_transcoder(
        transcoder,
        rows.layer,
        rows,
        n_steps=config.n_steps,
        lr=config.lr,
        lr_decay_steps=int(config.lr_decay_share * config.n_steps),
        dead_feature_window=max(1, int(DEAD_WINDOW * config.n_steps)),
    )
    return transcoder
