"""Training a transcoder of a layer: in one process or several, with checkpoints."""

from faithfulness_plugin.training.checkpoints import latest_checkpoint
from faithfulness_plugin.training.train import TrainingResult, train_transcoder

__all__ = ["TrainingResult", "latest_checkpoint", "train_transcoder"]
