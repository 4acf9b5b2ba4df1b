"""Where the time of a training step goes, with and without the Jacobian term."""

import copy
import statistics
from functools import partial
from typing import Any

import torch
from sae_lens.config import LoggingConfig, SAETrainerConfig
from sae_lens.training.sae_trainer import SAETrainer

from faithfulness_plugin.language_model.result import Speed, StepCost
from faithfulness_plugin.layers.hooked_layer import HookedLayer
from faithfulness_plugin.results.timing import in_turn, seconds

ROUNDS = 10
WARM_UP = 2


def measure(store: Any, transcoder: Any, layer: HookedLayer, *, batch_size: int, rounds: int = ROUNDS) -> Speed:
    """Time the model, and a step of the transcoder with and without its Jacobian term, in turn.

    The transcoder itself is not changed. `store` moves on in its text.

    Args:
        store: SAELens's activations store, whose model makes the rows.
        transcoder: of a positive `jacobian_coefficient`.
        layer: what it replaces.
        batch_size: rows a step.
        rounds: steps of each kind that count, after a warm-up.

    Returns:
        Medians over the rounds.
    """
    layer, batches = layer.copy(), _Batches(store, layer.hook_in, batch_size)
    coefficients = (0.0, transcoder.cfg.jacobian_coefficient)
    arms = {c: partial(_step, _trainer(transcoder, layer, c), layer, batches) for c in coefficients}
    measured = in_turn(arms, rounds, warm_up=WARM_UP, before_round=batches.make)
    model = 1e6 * statistics.median(batches.seconds_a_row[WARM_UP:])
    costs = []
    for times in measured.values():
        of_layer, rest = (1e6 * statistics.median(part) for part in zip(*times, strict=True))
        costs.append(StepCost(model=model, layer=of_layer, transcoder=rest))
    return Speed(rounds=rounds, threads=torch.get_num_threads(), without=costs[0], matched=costs[1])


class _Batches:
    """Rows that the arms of one round share, and the time that the model took to make them."""

    def __init__(self, store: Any, hook_in: str, size: int) -> None:
        self.store, self.hook_in, self.size = store, hook_in, size
        self.seconds_a_row: list[float] = []

    def make(self) -> None:
        made: list[torch.Tensor] = []
        took = 0.0
        while sum(map(len, made)) < self.size:
            took += seconds(lambda: made.append(self._rows()), self.store.device)
        rows = torch.cat(made)
        self.rows = rows[: self.size]
        self.seconds_a_row.append(took / len(rows))

    def _rows(self) -> torch.Tensor:
        tokens = self.store.get_batch_tokens()
        rows = self.store.get_multi_hook_activations(tokens)[self.hook_in].flatten(0, 1)
        if (special := self.store.exclude_special_tokens) is not None:
            rows = rows[~torch.isin(tokens[:, slice(*self.store.seqpos_slice)].flatten(), special)]
        return rows


def _step(trainer: SAETrainer[Any, Any], layer: HookedLayer, batches: _Batches) -> tuple[float, float]:
    """Make a step and return its seconds a row: of the layer, and of the rest."""
    rows, layer.seconds = batches.rows, 0.0
    whole = seconds(lambda: trainer.step(rows), rows.device)
    return layer.seconds / len(rows), (whole - layer.seconds) / len(rows)


def _trainer(transcoder: Any, layer: HookedLayer, coefficient: float) -> SAETrainer[Any, Any]:
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
    return SAETrainer(trainer_config, trained.set_layer(layer), iter(()))
