"""Which output tokens features raise and lower, for exports that show them."""

from collections.abc import Callable
from typing import Any, NamedTuple

from faithfulness_plugin.inspection.exports.examples import rounded
from faithfulness_plugin.inspection.inspection import Inspection


class TokenEffects(NamedTuple):
    """One feature's, the largest first."""

    raised: list[str]
    raised_by: list[float]
    lowered: list[str]
    lowered_by: list[float]


def token_effects(of: Inspection, feature: int, token_text: Callable[[int], str] | None) -> TokenEffects:
    """Write as text what a feature does to output tokens.

    Args:
        of: what was inspected; its `tokens`, where it has them, say for all features which tokens are `raised` and
            `lowered`, each with arrays `tokens` and `values` [d_sae, some].
        feature: the number of the feature.
        token_text: gives a token id's text; None shows numbers.

    Returns:
        Tokens and numbers; none where they are not known.
    """
    known = getattr(of, "tokens", None)
    ends = [_shown(getattr(known, end, None), feature, token_text) for end in ("raised", "lowered")]
    return TokenEffects(*ends[0], *ends[1])


def _shown(most: Any, feature: int, token_text: Callable[[int], str] | None) -> tuple[list[str], list[float]]:
    if most is None:
        return [], []
    tokens = most.tokens[feature].tolist()
    texts = [f"[{token}]" if token_text is None else token_text(token) for token in tokens]
    return texts, rounded(most.values[feature].tolist())
