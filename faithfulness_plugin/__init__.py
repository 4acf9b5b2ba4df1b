"""Mechanistic faithfulness for transcoders, on TransformerLens and SAELens.

Importing this package registers the training transcoders with SAELens.
"""

from typing import TYPE_CHECKING, Any

from faithfulness_plugin import metrics
from faithfulness_plugin.jacobian.closed_form import transcoder_jvp, transcoder_vjp
from faithfulness_plugin.jacobian.masking import gradient_masking_penalty
from faithfulness_plugin.jacobian.matching import JacobianMatching
from faithfulness_plugin.jacobian.matching_config import JacobianMatchingConfig
from faithfulness_plugin.layers.derivatives import layer_jvp, layer_vjp
from faithfulness_plugin.toy.abs_network import AbsNetwork
from faithfulness_plugin.toy.inputs import AbsInputs
from faithfulness_plugin.training.train import TrainingResult, train_transcoder
from faithfulness_plugin.transcoders import architectures as _architectures  # noqa: F401  registers them with SAELens
from faithfulness_plugin.transcoders import stock as _stock  # noqa: F401  known to the closed forms by being imported
from faithfulness_plugin.transcoders.base import NonFiniteError
from faithfulness_plugin.transcoders.batch_topk import BatchTopKTrainingTranscoder, BatchTopKTrainingTranscoderConfig
from faithfulness_plugin.transcoders.export import topk_to_jumprelu
from faithfulness_plugin.transcoders.jumprelu import JumpReLUTrainingTranscoder, JumpReLUTrainingTranscoderConfig
from faithfulness_plugin.transcoders.load import load_transcoder
from faithfulness_plugin.transcoders.skip import attachable
from faithfulness_plugin.transcoders.standard import StandardTrainingTranscoder, StandardTrainingTranscoderConfig
from faithfulness_plugin.transcoders.topk import TopKTrainingTranscoder, TopKTrainingTranscoderConfig
from faithfulness_plugin.transcoders.topk_inference import TopKTranscoder

if TYPE_CHECKING:
    from faithfulness_plugin.adapters.sae_lens import faithful_runner

__all__ = [
    "AbsInputs",
    "AbsNetwork",
    "BatchTopKTrainingTranscoder",
    "BatchTopKTrainingTranscoderConfig",
    "JacobianMatching",
    "JacobianMatchingConfig",
    "JumpReLUTrainingTranscoder",
    "JumpReLUTrainingTranscoderConfig",
    "NonFiniteError",
    "StandardTrainingTranscoder",
    "StandardTrainingTranscoderConfig",
    "TopKTrainingTranscoder",
    "TopKTrainingTranscoderConfig",
    "TopKTranscoder",
    "TrainingResult",
    "attachable",
    "faithful_runner",
    "gradient_masking_penalty",
    "layer_jvp",
    "layer_vjp",
    "load_transcoder",
    "metrics",
    "topk_to_jumprelu",
    "train_transcoder",
    "transcoder_jvp",
    "transcoder_vjp",
]


def __getattr__(name: str) -> Any:
    """Adapters are imported when they are asked for."""
    if name == "faithful_runner":
        from faithfulness_plugin.adapters.sae_lens import faithful_runner

        return faithful_runner
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
