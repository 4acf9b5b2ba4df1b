"""One toy transcoder of an ensemble: all that decides what it becomes."""

from dataclasses import dataclass, field
from typing import Any

from faithfulness_plugin.benchmarks.note.trainer.augmentation import Augmentation
from faithfulness_plugin.benchmarks.note.trainer.rows import RowInputs, RowSource
from faithfulness_plugin.jacobian.matching_config import JacobianMatchingConfig
from faithfulness_plugin.toy.inputs import AbsInputs
from faithfulness_plugin.transcoders.batch_topk import BatchTopKTrainingTranscoderConfig
from faithfulness_plugin.transcoders.jumprelu import JumpReLUTrainingTranscoderConfig
from faithfulness_plugin.transcoders.standard import StandardTrainingTranscoderConfig
from faithfulness_plugin.transcoders.topk import TopKTrainingTranscoderConfig

ToyConfig = (
    StandardTrainingTranscoderConfig
    | TopKTrainingTranscoderConfig
    | BatchTopKTrainingTranscoderConfig
    | JumpReLUTrainingTranscoderConfig
)
"""What an ensemble trains."""


@dataclass(frozen=True, kw_only=True)
class ToyMember:
    """A transcoder, the data that it is trained on, and its seed.

    Trained alone, it is the config's training class whose weights were drawn after
    `torch.manual_seed(derived_seed(seed, "weights"))`, trained on `inputs()` by `train_transcoder`. The probes' seed is
    the config's own (`jacobian["seed"]`).

    Raises:
        ValueError: a config that the ensemble cannot train.
    """

    transcoder: ToyConfig
    seed: int = 0
    density: float = 1.0
    repeat_frac: float = 0.0
    n_ones: int = 3
    batch_size: int = 256
    rows: RowSource | None = None
    """Data in the place of `AbsInputs`: density, repeat_frac and n_ones then mean nothing."""
    augmentation: Augmentation | None = field(default=None)

    def __post_init__(self) -> None:
        config: Any = self.transcoder
        if not isinstance(config, ToyConfig):
            raise ValueError(f"the ensemble does not train {config.architecture()}: use train_transcoder")

    @property
    def matching(self) -> JacobianMatchingConfig:
        """The config of the Jacobian term."""
        assert isinstance(self.transcoder.jacobian, JacobianMatchingConfig)  # since __post_init__
        return self.transcoder.jacobian

    @property
    def matched(self) -> bool:
        """Whether there is a Jacobian term."""
        return self.transcoder.jacobian_coefficient > 0

    def inputs(self, device: Any = "cpu") -> AbsInputs | RowInputs:
        """Return the rows that it is trained on, from the first.

        Args:
            device: where they are drawn.

        Returns:
            An endless iterator of batches.
        """
        return (
            self.abs_inputs(device) if self.rows is None else RowInputs(self.rows, self.batch_size, self.seed, device)
        )

    def abs_inputs(self, device: Any = "cpu") -> AbsInputs:
        """Return these rows where it has none of its own.

        Args:
            device: where they are drawn.

        Returns:
            An endless iterator of batches.
        """
        return AbsInputs(
            self.transcoder.d_in, self.density, self.repeat_frac, self.n_ones, self.batch_size, self.seed, device
        )
