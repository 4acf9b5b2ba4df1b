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
from .toy.abs_network import AbsNetwork as AbsNetwork
from .toy.inputs import AbsInputs as AbsInputs
from .training.train import TrainingResult as TrainingResult
from .training.train import train_transcoder as train_transcoder
from .transcoders.base import NonFiniteError as NonFiniteError
from .transcoders.batch_topk import BatchTopKTrainingTranscoder as BatchTopKTrainingTranscoder
from .transcoders.batch_topk import BatchTopKTrainingTranscoderConfig as BatchTopKTrainingTranscoderConfig
from .transcoders.export import topk_to_jumprelu as topk_to_jumprelu
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
    "__version__",
    "attachable",
    "attribution",
    "faithful_runner",
    "figures",
    "gradient_masking_penalty",
    "inspection",
    "layer_jvp",
    "layer_vjp",
    "load_transcoder",
    "metrics",
    "store",
    "topk_to_jumprelu",
    "train_transcoder",
    "transcoder_jvp",
    "transcoder_vjp",
]
