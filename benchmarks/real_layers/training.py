"""Train one transcoder of the experiment from a store, on the stored layer or on another one at the same rows."""

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from jaxtyping import Float
from torch import Tensor

from faithfulness_plugin.benchmarks.real_layers.arms import Arm
from faithfulness_plugin.benchmarks.real_layers.config import RealLayersConfig, Run
from faithfulness_plugin.benchmarks.real_layers.permuted_layer import weights_of
from faithfulness_plugin.benchmarks.real_layers.skip_variants import plain_skip
from faithfulness_plugin.layers.hooked_layer import HookedLayer
from faithfulness_plugin.layers.stored_layer import StoredLayer
from faithfulness_plugin.results.timing import peak_memory, reset_peak_memory
from faithfulness_plugin.store import DerivativeStore, StoredRows
from faithfulness_plugin.training import latest_checkpoint
from faithfulness_plugin.training.train import train_transcoder

CHECKPOINT_EVERY = 500  # steps
DEAD_WINDOW = 0.25
"""The share of the steps without firing after which a feature counts as dead."""


class Cost(NamedTuple):
    """What a training took."""

    seconds: float | None
    """Estimated from this call's part of it; None where that is none."""
    peak_memory: int | None
    """Bytes; None where nothing was trained."""


class InputsAlone(Iterator[Tensor]):
    """The rows x of a store, for a layer that computes its own outputs there.

    Args:
        rows: brings x beside the stored layer's outputs.
    """

    def __init__(self, rows: StoredRows) -> None:
        self.rows, self.batch_size = rows, rows.batch_size

    def __next__(self) -> Float[Tensor, "rows d_in"]:
        return self.rows.layer.unpack(next(self.rows)).x

    def state_dict(self) -> dict[str, Any]:
        """Return the place in the stream.

        Returns:
            As the store's rows do.
        """
        return self.rows.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a place.

        Args:
            state: what `state_dict` returned.
        """
        self.rows.load_state_dict(state)


def train(
    transcoder: Any, run: Run, layer: HookedLayer, store: DerivativeStore, config: RealLayersConfig, checkpoint: Path
) -> Cost:
    """Train a transcoder, from its last checkpoint where there is one.

    A feature counts as dead after a quarter of the steps without firing (or the arm's share), so that short runs revive
    some as well.

    Args:
        transcoder: is trained in place.
        run: says on which layer, and for how many steps.
        layer: the model's, as it is now.
        store: its rows, full.
        config: the experiment's.
        checkpoint: the folder for checkpoints.

    Returns:
        The cost.
    """
    n_steps, last = config.steps(run.arm), latest_checkpoint(checkpoint)
    left = n_steps - (0 if last is None else int(last.name.removeprefix("step_")))
    rows = StoredRows(store, None, batch_size=config.batch_size, seed=run.seed)
    on_stored = run.arm.layer == "real"
    reset_peak_memory(config.device)
    begun = time.perf_counter()
    train_transcoder(
        transcoder,
        rows.layer if on_stored else StoredLayer(weights_of(layer)),
        rows if on_stored else InputsAlone(rows),
        n_steps=n_steps,
        lr=config.lr,
        lr_warm_up_steps=config.lr_warm_up_steps,
        lr_decay_steps=int(config.lr_decay_share * n_steps),
        dead_feature_window=max(1, int(_dead_window(run.arm) * n_steps)),
        checkpoint=checkpoint,
        checkpoint_every=CHECKPOINT_EVERY,
        resume=True,
    )
    seconds = time.perf_counter() - begun
    plain_skip(transcoder)
    return Cost(seconds * n_steps / left if left else None, peak_memory(config.device))


def _dead_window(arm: Arm) -> float:
    share = None if arm.vary is None else arm.vary.dead_window
    return DEAD_WINDOW if share is None else share
