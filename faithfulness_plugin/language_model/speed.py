"""Where the time of a training step goes, with and without the Jacobian term."""

import copy
import statistics
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from sae_lens.config import LoggingConfig, SAETrainerConfig
from sae_lens.training.sae_trainer import SAETrainer

from faithfulness_plugin.language_model.result import Speed, StepCost
from faithfulness_plugin.layers.hooked_layer import HookedLayer
from faithfulness_plugin.results.timing import in_turn, seconds
from faithfulness_plugin.training.fused import fuse

if TYPE_CHECKING:  # at run time a type is no reason to load SAELens
    from faithfulness_plugin.transcoders.base import TrainingTranscoder

ROUNDS = 10
WARM_UP = 2


def measure(
    store: Any, transcoder: "TrainingTranscoder[Any]", layer: HookedLayer, *, batch_size: int, rounds: int = ROUNDS
) -> Speed:
    """Time the model, and a step of the transcoder with and without its Jacobian term, in turn.

    The transcoder itself is not changed. `store` moves on in its text.

    Args:
        store: SAELens's activations store, whose model makes the rows.
        transcoder: with a positive `jacobian_coefficient`.
        layer: what it replaces.
        batch_size: rows a step.
        rounds: steps of each kind that count, after a warm-up.

    Returns:
        Medians over the rounds.
    """
    layer = layer.copy()
    rows: list[torch.Tensor] = []
    model: list[float] = []

    def make_rows() -> None:
        rows.clear()
        took = seconds(lambda: rows.append(_rows(store, layer.hook_in, batch_size)), store.device)
        model.append(took / len(rows[0]))

    def step(trainer: SAETrainer[Any, Any]) -> tuple[float, float]:
        batch, layer.seconds = rows[0][:batch_size], 0.0
        whole = seconds(lambda: trainer.step(batch), batch.device)
        return layer.seconds / len(batch), (whole - layer.seconds) / len(batch)

    coefficients = (0.0, transcoder.cfg.jacobian_coefficient)
    arms = {c: partial(step, _trainer(transcoder, layer, c)) for c in coefficients}
    measured = in_turn(arms, rounds, warm_up=WARM_UP, before_round=make_rows)
    without, matched = (
        StepCost(model=_microseconds(model[WARM_UP:]), layer=_microseconds(of_layer), transcoder=_microseconds(rest))
        for of_layer, rest in (zip(*times, strict=True) for times in measured.values())
    )
    return Speed(rounds=rounds, threads=torch.get_num_threads(), without=without, matched=matched)


def _microseconds(taken: Sequence[float]) -> float:
    return 1e6 * statistics.median(taken)


def _rows(store: Any, hook_in: str, at_least: int) -> torch.Tensor:
    """Run the model until there are enough rows of the layer's input."""
    made: list[torch.Tensor] = []
    while sum(map(len, made)) < at_least:
        tokens = store.get_batch_tokens()
        rows = store.get_multi_hook_activations(tokens)[hook_in].flatten(0, 1)
        if (special := store.exclude_special_tokens) is not None:
            rows = rows[~torch.isin(tokens[:, slice(*store.seqpos_slice)].flatten(), special)]
        made.append(rows)
    return torch.cat(made)


def _trainer(transcoder: "TrainingTranscoder[Any]", layer: HookedLayer, coefficient: float) -> SAETrainer[Any, Any]:
    cfg = copy.deepcopy(transcoder.cfg)
    cfg.jacobian_coefficient = coefficient
    trained = type(transcoder)(cfg)
    trained.load_state_dict(transcoder.state_dict())
    trainer_config = SAETrainerConfig(
        total_training_samples=10**9,
        train_batch_size_samples=1,
        lr=1e-5,
        lr_end=1e-5,
        device=str(transcoder.device),
        logger=LoggingConfig(log_to_wandb=False),
    )
    trainer = SAETrainer(trainer_config, trained.set_layer(layer), iter(()))
    fuse(trainer.optimizer)
    return trainer
