"""Which output tokens features raise and lower, for exports that show them."""

from collections.abc import Callable
from typing import NamedTuple, Protocol

from jaxtyping import Float, Int
from numpy import ndarray

from faithfulness_plugin.inspection.exports.examples import rounded


class TokenEffects(Protocol):
    """Arrays [d_sae, some]: for each feature tokens and what it adds to their logits, the largest effect first."""

    @property
    def raised(self) -> Int[ndarray, "d_sae some"]: ...
    @property
    def raised_by(self) -> Float[ndarray, "d_sae some"]: ...
    @property
    def lowered(self) -> Int[ndarray, "d_sae some"]: ...
    @property
    def lowered_by(self) -> Float[ndarray, "d_sae some"]: ...


class ShownEffects(NamedTuple):
    """One feature's, as text."""

    raised: list[str]
    raised_by: list[float]
    lowered: list[str]
    lowered_by: list[float]


def shown_effects(effects: TokenEffects | None, feature: int, token_text: Callable[[int], str] | None) -> ShownEffects:
    """Write a feature's effects on tokens as text.

    Args:
        effects: those of all features; None where they are not known.
        feature: which one.
        token_text: gives a token id's text; None shows numbers.

    Returns:
        Tokens and numbers; none where they are not known.
    """
    if effects is None:
        return ShownEffects([], [], [], [])
    text = token_text or (lambda token: f"[{token}]")
    return ShownEffects(
        [text(token) for token in effects.raised[feature].tolist()],
        rounded(effects.raised_by[feature].tolist()),
        [text(token) for token in effects.lowered[feature].tolist()],
        rounded(effects.lowered_by[feature].tolist()),
    )
