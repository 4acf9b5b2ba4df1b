"""Skip connections where only `encode` and `decode` are called, as SAELens's attached models do."""

from typing import Any, Protocol, TypeVar, runtime_checkable

from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from faithfulness_plugin.jacobian.linear_region import add_skip

# Activations, to (the transcoder that made them, its input). Weak: both are let go with the activations.
_INPUTS: WeakTensorKeyDictionary = WeakTensorKeyDictionary()

T_MODULE = TypeVar("T_MODULE", bound=nn.Module)


@runtime_checkable
class Decodes(Protocol):
    """A transcoder of SAELens's kind, as far as its output is made of its activations."""

    def decode(self, feature_acts: Tensor, /) -> Tensor:
        """Compute the output.

        Args:
            feature_acts: the activations.

        Returns:
            The output, with a skip connection or without.
        """
        ...


class SkipInDecode:
    """decode(encode(x)) = t(x), the skip connection included.

    SAELens's `add_sae` calls `encode` and then `decode`, never `forward`, so that the skip connection of a stock
    SkipTranscoder is dropped there. Here `decode` knows the input of activations that the same transcoder's `encode`
    has returned, the very tensor; of any others it gives W_dec a + b_dec, as without a skip connection.
    """

    def encode(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_sae"]:
        """Compute the activations, and remember their input for `decode`.

        Args:
            x: the rows.

        Returns:
            The activations.
        """
        return self.remember(super().encode(x), x)  # pyright: ignore[reportAttributeAccessIssue]  of the SAE beside

    def remember(self, feature_acts: Tensor, x: Tensor) -> Tensor:
        """Remember the input of activations, for `decode`; without a skip connection there is nothing to remember.

        Args:
            feature_acts: the activations.
            x: the input that they were computed from.

        Returns:
            The very activations.
        """
        if getattr(self, "W_skip", None) is not None:
            _INPUTS[feature_acts] = (self, x)
        return feature_acts

    def decode(self, feature_acts: Float[Tensor, "*batch d_sae"]) -> Float[Tensor, "*batch d_out"]:
        """Compute W_dec a + b_dec, and add W_skip x for activations that this transcoder's `encode` returned.

        Args:
            feature_acts: the activations a.

        Returns:
            The output.
        """
        recons: Tensor = super().decode(feature_acts)  # pyright: ignore[reportAttributeAccessIssue]
        x = _input_of(self, feature_acts)
        return recons if x is None else add_skip(recons, x, self.W_skip)  # pyright: ignore[reportAttributeAccessIssue]


def _input_of(transcoder: object, feature_acts: Tensor) -> Tensor | None:
    """Return what `encode` was given, for the very activations that it returned."""
    made = _INPUTS.get(feature_acts)
    return made[1] if made is not None and made[0] is transcoder else None


def output_of(
    transcoder: Decodes, x: Float[Tensor, "*batch d_in"], feature_acts: Float[Tensor, "*batch d_sae"]
) -> Float[Tensor, "*batch d_out"]:
    """Compute t(x) from its activations, with the skip connection of any transcoder that has one (`W_skip`).

    Args:
        transcoder: any SAELens transcoder.
        x: the rows.
        feature_acts: its activations there, edited or not.

    Returns:
        The output.
    """
    recons = transcoder.decode(feature_acts)
    if isinstance(transcoder, SkipInDecode) and _input_of(transcoder, feature_acts) is not None:
        return recons
    return add_skip(recons, x, getattr(transcoder, "W_skip", None))


class Attachable(SkipInDecode):
    """An inference transcoder that keeps its skip connection wherever it is called."""

    def forward(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_out"]:
        """Compute t(x).

        Args:
            x: the rows.

        Returns:
            The output, with the skip connection.
        """
        return self.decode(self.encode(x))

    def forward_with_activations(
        self, x: Float[Tensor, "*batch d_in"]
    ) -> tuple[Float[Tensor, "*batch d_out"], Float[Tensor, "*batch d_sae"]]:
        """Compute t(x) and the activations.

        Args:
            x: the rows.

        Returns:
            The output and the activations.
        """
        feature_acts = self.encode(x)
        return self.decode(feature_acts), feature_acts


def attachable(transcoder: T_MODULE) -> T_MODULE:
    """Return a transcoder that keeps its skip connection where SAELens's `add_sae` attaches it.

    SAELens's own SkipTranscoder and JumpReLUSkipTranscoder, which `SAE.load_from_disk` makes of exported folders, lose
    it there. This package's classes, and those without a skip connection, are returned as they are.

    Args:
        transcoder: any SAELens transcoder.

    Returns:
        The transcoder, or one of the same weights that keeps the connection.
    """
    if getattr(transcoder, "W_skip", None) is None or isinstance(transcoder, SkipInDecode):
        return transcoder
    stock = type(transcoder)
    kept: Any = object.__new__(type(f"Attachable{stock.__name__}", (Attachable, stock), {}))
    kept.__dict__.update(transcoder.__dict__)  # parameters and hook points are shared
    return kept
