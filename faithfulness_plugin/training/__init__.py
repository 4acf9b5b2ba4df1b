"""Training a transcoder of a layer: in one process or several, with checkpoints."""

from faithfulness_plugin.training.train import TrainingResult, latest_checkpoint, train_transcoder

__all__ = ["TrainingResult", "latest_checkpoint", "train_transcoder"]
