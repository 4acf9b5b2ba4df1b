"""Jacobian matching for dictionary_learning (0.1): its trainers train matched transcoders, in its own trainSAE.

The library yields pairs of a layer's input and output, and none of its trainers uses them. Here they do.
"""

from typing import Any, TypeVar

from faithfulness_plugin.adapters.dictionary_learning.trainers import (
    MatchedBatchTopK,
    MatchedJumpRelu,
    MatchedTopK,
    MatchedTrainer,
)
from faithfulness_plugin.adapters.matching import matching_config
from faithfulness_plugin.adapters.needs import needs
from faithfulness_plugin.jacobian.matching_config import JacobianMatchingConfig
from faithfulness_plugin.layers.derivatives import Layer

with needs("dictionary_learning>=0.1,<0.2", install="--no-deps 'dictionary_learning>=0.1,<0.2' nnsight"):
    from dictionary_learning.trainers.batch_top_k import BatchTopKTrainer
    from dictionary_learning.trainers.gdm import GatedSAETrainer
    from dictionary_learning.trainers.jumprelu import JumpReluTrainer
    from dictionary_learning.trainers.standard import StandardTrainer, StandardTrainerAprilUpdate
    from dictionary_learning.trainers.top_k import TopKTrainer

TRAINER = TypeVar("TRAINER", bound=type)
BASES: dict[type, type[MatchedTrainer]] = {
    StandardTrainer: MatchedTrainer,
    StandardTrainerAprilUpdate: MatchedTrainer,
    GatedSAETrainer: MatchedTrainer,
    TopKTrainer: MatchedTopK,
    BatchTopKTrainer: MatchedBatchTopK,
    JumpReluTrainer: MatchedJumpRelu,
}
"""The class that each trainer is mixed with."""


def matched_trainer(
    trainer: TRAINER,
    layer: Layer,
    coefficient: float = 0.3,
    config: JacobianMatchingConfig | None = None,
    **options: Any,
) -> TRAINER:
    """Derive a trainer class that reads pairs (x, y) and matches the layer's Jacobian, for `trainSAE`'s configs.

    Its loss is the trainer's own, of y against the dictionary's function of x, plus coefficient times the matching
    loss, in the same unit: E||y - t(x)||^2. What it saves, the library loads as ever. TopK kinds start with encoder
    biases that centre x, where the library's (b_dec = the median of what is reconstructed) would centre y.

    Args:
        trainer: StandardTrainer, StandardTrainerAprilUpdate, GatedSAETrainer, TopKTrainer, BatchTopKTrainer,
            JumpReluTrainer, or a class of your own that inherits from one of them.
        layer: f, row-wise; y = f(x) in the pairs, [batch, 2, d], that `NNsightActivationBuffer(io="in_and_out")` makes.
        coefficient: weight of the Jacobian term; 0 for a transcoder without it.
        config: what is matched; None takes `options`.
        options: fields of a config, in place of one: estimator, probe, radius, ...

    Returns:
        The class.

    Raises:
        ValueError: another trainer, one that is matched already, or a loss of your own in place of JumpReLU's; a
            negative or non-finite coefficient; a gate_bandwidth; a config and options. From the new class: neurons that
            are resampled, pairs that are none, or not of this layer, a loss that does not encode.
    """
    if not (isinstance(trainer, type) and issubclass(trainer, tuple(BASES))):
        raise ValueError(f"{trainer!r}: choose from {', '.join(base.__name__ for base in BASES)}, or inherit from one")
    if issubclass(trainer, MatchedTrainer):
        raise ValueError(f"{trainer.__name__} is matched already: pass the library's class, with all that is to match")
    if issubclass(trainer, JumpReluTrainer) and trainer.loss is not JumpReluTrainer.loss:
        raise ValueError(
            f"{trainer.__name__} has a loss of its own, and JumpReluTrainer's encodes by itself, so that it cannot be "
            "given a layer's inputs: inherit from the matched class, and extend its own_loss(x, y, step, logging)"
        )
    config = matching_config(
        coefficient,
        config,
        options,
        "this library's activations have no gates with such a gradient; leave it out, or use "
        'estimator="secant", which also trains biases and thresholds',
    )
    mixin = next(mixin for base, mixin in BASES.items() if issubclass(trainer, base))
    settings = {"_matched": (layer, coefficient, config), "__doc__": trainer.__doc__}
    return type(f"Matched{trainer.__name__}", (mixin, trainer), settings)
