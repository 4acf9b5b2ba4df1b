from . import attribution as attribution
from . import inspection as inspection
from . import metrics as metrics
from . import store as store
from .adapters.sae_lens.runner import faithful_runner as faithful_runner  # pyright: ignore[reportMissingImports]
from .benchmarks import figures as figures  # pyright: ignore[reportMissingImports]
from .jacobian.closed_form import transcoder_jvp as transcoder_jvp
from .jacobian.closed_form import transcoder_vjp as transcoder_vjp
from .jacobian.masking import gradient_masking_penalty as gradient_masking_penalty
from .jacobian.matching import JacobianMatching as JacobianMatching
from .jacobian.matching_config import JacobianMatchingConfig as JacobianMatchingConfig
from .layers.derivatives import layer_jvp as layer_jvp
from .layers.derivatives import layer_vjp as layer_vjp
from .layers.layer_chain import LayerChain as LayerChain
from .layers.layer_chain import pad_layer as pad_layer
from .toy.abs_network import AbsNetwork as AbsNetwork
from .toy.inputs import AbsInputs as AbsInputs
from .training.train import TrainingResult as TrainingResult
from .training.train import train_transcoder as train_transcoder
from .transcoders.base import NonFiniteError as NonFiniteError
from .transcoders.batch_topk import BatchTopKTrainingTranscoder as BatchTopKTrainingTranscoder
from .transcoders.batch_topk import BatchTopKTrainingTranscoderConfig as BatchTopKTrainingTranscoderConfig
from .transcoders.cross_layer import CrossLayerTrainingTranscoder as CrossLayerTrainingTranscoder
from .transcoders.cross_layer_config import CrossLayerTrainingTranscoderConfig as CrossLayerTrainingTranscoderConfig
from .transcoders.cross_layer_inference import CrossLayerTranscoder as CrossLayerTranscoder
from .transcoders.export import topk_to_jumprelu as topk_to_jumprelu
from .transcoders.formats.cross_layer_files import load_cross_layer_transcoder as load_cross_layer_transcoder
from .transcoders.jumprelu import JumpReLUTrainingTranscoder as JumpReLUTrainingTranscoder
from .transcoders.jumprelu import JumpReLUTrainingTranscoderConfig as JumpReLUTrainingTranscoderConfig
from .transcoders.load import load_transcoder as load_transcoder
from .transcoders.skip import attachable as attachable
from .transcoders.standard import StandardTrainingTranscoder as StandardTrainingTranscoder
from .transcoders.standard import StandardTrainingTranscoderConfig as StandardTrainingTranscoderConfig
from .transcoders.topk import TopKTrainingTranscoder as TopKTrainingTranscoder
from .transcoders.topk import TopKTrainingTranscoderConfig as TopKTrainingTranscoderConfig
from .transcoders.topk_inference import TopKTranscoder as TopKTranscoder
from .version import __version__ as __version__

__all__ = [
    "AbsInputs",
    "AbsNetwork",
    "BatchTopKTrainingTranscoder",
    "BatchTopKTrainingTranscoderConfig",
    "CrossLayerTrainingTranscoder",
    "CrossLayerTrainingTranscoderConfig",
    "CrossLayerTranscoder",
    "JacobianMatching",
    "JacobianMatchingConfig",
    "JumpReLUTrainingTranscoder",
    "JumpReLUTrainingTranscoderConfig",
    "LayerChain",
    "NonFiniteError",
    "StandardTrainingTranscoder",
    "StandardTrainingTranscoderConfig",
    "TopKTrainingTranscoder",
    "TopKTrainingTranscoderConfig",
    "TopKTranscoder",
    "TrainingResult",
    "__version__",
    "attachable",
    "attribution",
    "faithful_runner",
    "figures",
    "gradient_masking_penalty",
    "inspection",
    "layer_jvp",
    "layer_vjp",
    "load_cross_layer_transcoder",
    "load_transcoder",
    "metrics",
    "pad_layer",
    "store",
    "topk_to_jumprelu",
    "train_transcoder",
    "transcoder_jvp",
    "transcoder_vjp",
]
