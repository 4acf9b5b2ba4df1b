"""Options of commands that say which rows of a text count."""

from typing import Annotated, Any

import typer

SkipFirst = Annotated[
    int | None,
    typer.Option("--skip-first", min=0, help="Leave out the first positions of every prompt, this many [default: 0]"),
]
SpecialTokens = Annotated[
    bool | None,
    typer.Option(
        "--special-tokens/--no-special-tokens", help="Whether special tokens count as well [default: they are left out]"
    ),
]
ExcludeNormsAbove = Annotated[
    float | None,
    typer.Option(
        "--exclude-norms-above",
        help="Leave out rows whose input or output norm is above this factor times the median",
    ),
]


def row_settings(
    skip_first: int | None, special_tokens: bool | None, exclude_norms_above: float | None
) -> dict[str, Any]:
    """Collect these options as the setting `rows`.

    Args:
        skip_first: --skip-first; None where it was not given.
        special_tokens: --special-tokens, likewise.
        exclude_norms_above: --exclude-norms-above, likewise.

    Returns:
        Those that were given, also as 0, which is refused or overrides what a file of settings says.
    """
    given = {"skip_first": skip_first, "special_tokens": special_tokens, "norms_above": exclude_norms_above}
    return {name: value for name, value in given.items() if value is not None}
