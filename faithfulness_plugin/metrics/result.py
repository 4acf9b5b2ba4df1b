"""What metrics share: their results, what they ask of a transcoder, relative errors and cosines."""

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from faithfulness_plugin.directions import DIRECTIONS as DIRECTIONS
from faithfulness_plugin.directions import Directions as Directions
from faithfulness_plugin.display import NotebookTable, short, short_repr

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class MetricResult(NotebookTable):
    """A frozen record of named numbers; subclasses add the fields. Notebooks show it as a table."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        cls.__repr__ = cls.__repr__  # into the class itself, where `dataclass` leaves it alone

    def to_dict(self) -> dict[str, Any]:
        """Convert the fields for JSON.

        Returns:
            The fields by name, arrays as nested lists.
        """
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in values.items()}

    __repr__ = short_repr

    @override
    def to_frame(self) -> "pd.DataFrame":
        """Return a row per number."""
        import pandas as pd

        return pd.DataFrame([{"number": f.name, "value": short(getattr(self, f.name))} for f in fields(self)])


@runtime_checkable
class Transcoder(Protocol):
    """What a metric asks of a transcoder: SAELens's names."""

    if TYPE_CHECKING:  # from Python 3.12 on a check at run time does not see the parameters of a module
        W_dec: Any  # nn.Parameter [d_sae, d_out]

    def encode(self, x: Tensor) -> Tensor:
        """Compute the features' activations.

        Args:
            x: [rows, d_in].

        Returns:
            [rows, d_sae].
        """
        ...

    def decode(self, feature_acts: Tensor) -> Tensor:
        """Compute the output from activations.

        Args:
            feature_acts: [rows, d_sae].

        Returns:
            [rows, d_out].
        """
        ...


def check_same_shape(transcoder_output: Tensor, layer_output: Tensor) -> None:
    """Raise unless transcoder and layer return the same shape: broadcasting would hide a difference.

    Args:
        transcoder_output: t(x).
        layer_output: f(x) at the same rows.

    Raises:
        ValueError: the shapes differ.
    """
    if transcoder_output.shape != layer_output.shape:
        raise ValueError(
            f"the transcoder returns shape {list(transcoder_output.shape)} and the layer {list(layer_output.shape)}: "
            "compare a transcoder with the layer it replaces, on rows [batch, d_in]"
        )


def relative_error(t: Float[Tensor, "*shape"], f: Float[Tensor, "*shape"]) -> float:
    """Compute sum ||t - f||^2 / sum ||f||^2, a ratio of means over rows.

    Args:
        t: the approximation.
        f: what it approximates, not all zero.

    Returns:
        0 for equal tensors; 1 says that nothing of f is there.

        >>> relative_error(torch.zeros(2, 3), torch.ones(2, 3))
        1.0
    """
    return ((t - f).square().sum() / f.square().sum()).item()


def mean_cosine(cosine: Float[Tensor, " rows"], layer: Float[Tensor, " rows"]) -> float:
    """Average cosines over the rows where the layer moves.

    Args:
        cosine: one per row.
        layer: the layer's squared norm at each row, above 0 where it moves.

    Returns:
        The mean; NaN where it moves on no row.
    """
    return cosine[layer > 0].mean().item()


def cosines(t: Float[Tensor, "rows d"], f: Float[Tensor, "rows d"]) -> Float[Tensor, " rows"]:
    """Compute cos(t, f) row by row.

    Args:
        t: vectors.
        f: vectors to compare them with.

    Returns:
        A cosine a row, 0 where either vector is 0.

        >>> cosines(torch.tensor([[2.0, 0.0], [0.0, 0.0]]), torch.ones(2, 2)).square()
        tensor([0.5000, 0.0000])
    """
    norms = t.norm(dim=-1) * f.norm(dim=-1)
    return torch.where(norms > 0, (t * f).sum(-1) / norms, torch.zeros_like(norms))
