"""The training transcoders by the name of their architecture, registered with SAELens."""

from typing import Any

from faithfulness_plugin.transcoders.batch_topk import BatchTopKTrainingTranscoder, BatchTopKTrainingTranscoderConfig
from faithfulness_plugin.transcoders.config import register_once
from faithfulness_plugin.transcoders.cross_layer import CrossLayerTrainingTranscoder
from faithfulness_plugin.transcoders.cross_layer_config import CrossLayerTrainingTranscoderConfig
from faithfulness_plugin.transcoders.jumprelu import JumpReLUTrainingTranscoder, JumpReLUTrainingTranscoderConfig
from faithfulness_plugin.transcoders.standard import StandardTrainingTranscoder, StandardTrainingTranscoderConfig
from faithfulness_plugin.transcoders.topk import TopKTrainingTranscoder, TopKTrainingTranscoderConfig

ARCHITECTURES: dict[str, tuple[type[Any], type[Any]]] = {
    "standard": (StandardTrainingTranscoderConfig, StandardTrainingTranscoder),
    "topk": (TopKTrainingTranscoderConfig, TopKTrainingTranscoder),
    "batch_topk": (BatchTopKTrainingTranscoderConfig, BatchTopKTrainingTranscoder),
    "jumprelu": (JumpReLUTrainingTranscoderConfig, JumpReLUTrainingTranscoder),
}
"""name: (config class, transcoder class)"""

for config_class, transcoder_class in ARCHITECTURES.values():
    register_once(transcoder_class, config_class)
register_once(CrossLayerTrainingTranscoder, CrossLayerTrainingTranscoderConfig)  # of several layers: no entry above
