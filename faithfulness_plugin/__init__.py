"""Mechanistic faithfulness for transcoders, on TransformerLens and SAELens.

Importing this package registers the training transcoders with SAELens.
"""

from faithfulness_plugin import metrics
from faithfulness_plugin.jacobian.closed_form import transcoder_jvp
from faithfulness_plugin.jacobian.matching import JacobianMatching, JacobianMatchingConfig
from faithfulness_plugin.layer import layer_jvp
from faithfulness_plugin.toy.abs_network import AbsNetwork
from faithfulness_plugin.toy.inputs import AbsInputs
from faithfulness_plugin.training import TrainingResult, train_transcoder
from faithfulness_plugin.transcoders.base import NonFiniteError
from faithfulness_plugin.transcoders.standard import StandardTrainingTranscoder, StandardTrainingTranscoderConfig

__all__ = [
    "AbsInputs",
    "AbsNetwork",
    "JacobianMatching",
    "JacobianMatchingConfig",
    "NonFiniteError",
    "StandardTrainingTranscoder",
    "StandardTrainingTranscoderConfig",
    "TrainingResult",
    "layer_jvp",
    "metrics",
    "train_transcoder",
    "transcoder_jvp",
]
