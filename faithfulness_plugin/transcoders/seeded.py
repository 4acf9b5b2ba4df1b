"""New transcoders with weights that a seed determines."""

from typing import Any

import torch
from sae_lens.registry import get_sae_training_class
from sae_lens.saes.sae import TrainingSAEConfig

from faithfulness_plugin.seeds import derived_seed
from faithfulness_plugin.transcoders.base import TrainingTranscoder


def made_with_seed(cfg: TrainingSAEConfig, seed: int) -> TrainingTranscoder[Any]:
    """Build a transcoder whose weights are those of every other one of its shape with this seed.

    Arms that differ in a coefficient so begin alike. The global random state is left as it was.

    Args:
        cfg: a training config of SAELens's registry.
        seed: the user's seed, from which that of the weights is derived.

    Returns:
        The transcoder, without a layer.
    """
    with torch.random.fork_rng():
        torch.manual_seed(derived_seed(seed, "weights"))
        made: Any = get_sae_training_class(cfg.architecture())[0](cfg)
        return made
