"""Where the time of a training step goes, with and without the Jacobian term."""

import copy
import statistics
import time
from typing import Any

import torch
from sae_lens.config import LoggingConfig, SAETrainerConfig
from sae_lens.training.sae_trainer import SAETrainer

from faithfulness_plugin.language_model.result import Speed, StepCost
from faithfulness_plugin.layers.hooked_layer import HookedLayer

ROUNDS = 10
WARM_UP = 2


def measure(store: Any, transcoder: Any, layer: HookedLayer, *, batch_size: int, rounds: int = ROUNDS) -> Speed:
    """Times the model, and a step of the transcoder with and without its Jacobian term, in turns.

    The transcoder itself is not changed. `store` goes on in its text.
    """
    arms = {
        coefficient: _Arm(transcoder, layer, coefficient) for coefficient in (0.0, transcoder.cfg.jacobian_coefficient)
    }
    model: list[float] = []
    for n in range(WARM_UP + rounds):
        begun = time.perf_counter()
        made = [_rows(store, layer)]
        while sum(map(len, made)) < batch_size:
            made.append(_rows(store, layer))
        rows = torch.cat(made)
        per_token = (time.perf_counter() - begun) / len(rows)
        for arm in arms.values():
            arm.step(rows[:batch_size], timed=n >= WARM_UP)
        if n >= WARM_UP:
            model.append(per_token)
    without, matched = (arm.cost(statistics.median(model)) for arm in arms.values())
    return Speed(rounds=rounds, threads=torch.get_num_threads(), without=without, matched=matched)


def _rows(store: Any, layer: HookedLayer) -> torch.Tensor:
    tokens = store.get_batch_tokens()
    rows = store.get_multi_hook_activations(tokens)[layer.hook_in].flatten(0, 1)
    if (special := store.exclude_special_tokens) is not None:
        rows = rows[~torch.isin(tokens[:, slice(*store.seqpos_slice)].flatten(), special)]
    if rows.is_cuda:
        torch.cuda.synchronize(rows.device)
    return rows


class _Arm:
    def __init__(self, transcoder: Any, layer: HookedLayer, coefficient: float) -> None:
        cfg = copy.deepcopy(transcoder.cfg)
        cfg.jacobian_coefficient = coefficient
        self.layer, self.transcoder = layer.copy(), type(transcoder)(cfg)
        self.transcoder.load_state_dict(transcoder.state_dict())
        self.transcoder.set_layer(self.layer)
        trainer_config = SAETrainerConfig(
            total_training_samples=10**9,
            train_batch_size_samples=1,
            lr=1e-5,
            lr_end=1e-5,
            device=str(transcoder.device),
            logger=LoggingConfig(log_to_wandb=False),
        )
        self.trainer = SAETrainer(trainer_config, self.transcoder, iter(()))
        self.layer_times: list[float] = []
        self.rest_times: list[float] = []

    def step(self, rows: torch.Tensor, *, timed: bool) -> None:
        self.layer.seconds = 0.0
        begun = time.perf_counter()
        self.trainer.step(rows)
        if rows.is_cuda:
            torch.cuda.synchronize(rows.device)
        seconds = time.perf_counter() - begun
        if timed:
            self.layer_times.append(self.layer.seconds / len(rows))
            self.rest_times.append((seconds - self.layer.seconds) / len(rows))

    def cost(self, model: float) -> StepCost:
        layer, rest = statistics.median(self.layer_times), statistics.median(self.rest_times)
        return StepCost(model=1e6 * model, layer=1e6 * layer, transcoder=1e6 * rest)
