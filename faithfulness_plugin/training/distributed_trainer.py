"""SAELens's trainer in several processes: each takes its share of a batch, and all take the whole batch's step."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from sae_lens.saes.sae import TrainStepInput, TrainStepOutput
from sae_lens.training.sae_trainer import SAETrainer
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel
from typing_extensions import override

from faithfulness_plugin.training.processes import Processes
from faithfulness_plugin.transcoders.base import TrainingTranscoder


class DistributedTrainer(SAETrainer[Any, Any]):
    """A trainer whose step is that of one process with the batches of all of them.

    DistributedDataParallel averages gradients; the transcoder's whole training step, Jacobian term included, is the
    wrapped forward pass (a derivative taken around a wrapped module would fail). The processes also share what else
    depends on the batch: the Jacobian term's unit, and which features fired. BatchTopK ranks within each process.

    `train_batch_size_samples` of the config counts the rows of all processes.
    """

    def __init__(self, cfg: Any, sae: TrainingTranscoder[Any], data_provider: Iterator[Tensor]) -> None:
        super().__init__(cfg, sae, data_provider)
        self.processes = Processes.here()
        sae.matching.across = distributed.group.WORLD
        self._together = DistributedDataParallel(_Step(sae))

    @override
    def step(self, batch: Tensor) -> TrainStepOutput:
        output = super().step(batch)
        self.n_training_samples += batch.shape[0] * (self.processes.size - 1)
        return output

    @override
    def _train_step(self, sae: Any, sae_in: Tensor) -> TrainStepOutput:
        fired_before = self.act_freq_scores.clone()
        with _stepping(sae, self._together):
            output = super()._train_step(sae, sae_in)
        with torch.no_grad():
            self.act_freq_scores = fired_before + self.processes.sum(self.act_freq_scores - fired_before)
            self.n_forward_passes_since_fired = self.processes.least(self.n_forward_passes_since_fired)
        return output


class _Step(nn.Module):
    """A training step as a forward pass."""

    def __init__(self, transcoder: TrainingTranscoder[Any]) -> None:
        super().__init__()
        self.transcoder = transcoder

    @override
    def forward(self, step_input: TrainStepInput) -> TrainStepOutput:
        return type(self.transcoder).training_forward_pass(self.transcoder, step_input)


@contextmanager
def _stepping(transcoder: Any, together: nn.Module) -> Iterator[None]:
    """Put the wrapped step in the place of the transcoder's own, which SAELens's trainer calls."""
    object.__setattr__(transcoder, "training_forward_pass", together)  # past nn.Module, or it would be a submodule
    try:
        yield
    finally:
        del transcoder.training_forward_pass
