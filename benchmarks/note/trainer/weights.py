"""The weights of many toy transcoders, stacked: as each of them would have drawn them, and back to transcoders."""

from collections.abc import Sequence
from copy import deepcopy
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from faithfulness_plugin.benchmarks.note.trainer.member import ToyMember
from faithfulness_plugin.layers.derivatives import Layer
from faithfulness_plugin.transcoders.base import TrainingTranscoder
from faithfulness_plugin.transcoders.seeded import made_with_seed

ALIGNED = 32
"""Numbers; a whole number of vector registers, also where kernels take two at once."""


class StackedWeights(NamedTuple):
    """The weights of n transcoders under SAELens's names; None where the architecture has none."""

    W_enc: Float[Tensor, "*n d_in d_sae"]
    b_enc: Float[Tensor, "*n d_sae"]
    W_dec: Float[Tensor, "*n d_sae d_out"]
    b_dec: Float[Tensor, "*n d_out"]
    W_skip: Float[Tensor, "*n d_out d_in"] | None = None
    """With a skip connection."""
    threshold: Float[Tensor, "*n d_sae"] | None = None
    """JumpReLU's."""
    topk_threshold: Float[Tensor, "*n"] | None = None
    """BatchTopK's, a moving average: no gradient trains it."""

    def present(self) -> dict[str, Tensor]:
        """Select the weights that the architecture has.

        Returns:
            The non-None weights by name, in the order of the fields.
        """
        return {name: weight for name, weight in self._asdict().items() if weight is not None}

    def packed(self) -> Float[Tensor, "n size"]:
        """Copy all weights into one matrix, a row for each transcoder, filled up with zeros to a multiple of `ALIGNED`.

        One matrix has its gradient clipped, and is trained, in one operation.

        Returns:
            The matrix, a copy.
        """
        rows = torch.cat([weight.flatten(1) for weight in self.present().values()], dim=1)
        return torch.nn.functional.pad(rows, (0, -rows.shape[1] % ALIGNED))

    def unpacked(self, rows: Float[Tensor, "n size"]) -> "StackedWeights":
        """View a matrix of `packed` as weights.

        Args:
            rows: the matrix of weights that have the shapes of these.

        Returns:
            The weights, which share the matrix's memory and have a graph to it.
        """
        shapes = {name: weight.shape for name, weight in self.present().items()}
        sizes = [shape[1:].numel() for shape in shapes.values()]
        parts = rows.split([*sizes, rows.shape[1] - sum(sizes)], dim=1)  # the last is the filling
        return StackedWeights(
            **{name: part.view(shape) for (name, shape), part in zip(shapes.items(), parts[:-1], strict=True)}
        )


def initial_weights(members: Sequence[ToyMember]) -> StackedWeights:
    """Draw weights as each member alone does; members that agree in seed and initialisation draw once.

    Args:
        members: of one program.

    Returns:
        The weights, with the members' number n in front.
    """
    drawn: dict[Any, TrainingTranscoder[Any]] = {}
    each = []
    for member in members:
        config = member.transcoder
        threshold = getattr(config, "jumprelu_init_threshold", None)
        key = (member.seed, config.d_in, config.d_sae, config.d_out, config.decoder_init_norm, threshold)
        if key not in drawn:
            drawn[key] = made_with_seed(deepcopy(config), member.seed)
        each.append(drawn[key])
    dtype, names = each[0].dtype, [name for name in StackedWeights._fields if name in dict(each[0].named_parameters())]
    return StackedWeights(
        **{name: torch.stack([t.get_parameter(name).detach().to(dtype) for t in each]).contiguous() for name in names}
    )


def as_transcoder(member: ToyMember, weights: StackedWeights, layer: Layer) -> TrainingTranscoder[Any]:
    """Make a member's weights its transcoder.

    Args:
        member: whose they are.
        weights: one member's, without the leading dimension.
        layer: what the transcoder replaces.

    Returns:
        The transcoder, in `eval` mode and with its layer set.
    """
    transcoder = made_with_seed(deepcopy(member.transcoder), member.seed).set_layer(layer)
    with torch.no_grad():
        for name, weight in weights.present().items():
            getattr(transcoder, name).copy_(weight)
    return transcoder.eval()
