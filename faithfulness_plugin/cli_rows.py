"""Options of commands that say which rows of a text count."""

from typing import Annotated, Any

import typer

SkipFirst = Annotated[
    int, typer.Option("--skip-first", min=0, help="Leave out the first positions of every prompt, this many")
]
SpecialTokens = Annotated[
    bool, typer.Option("--special-tokens", help="Special tokens count as well [default: they are left out]")
]
ExcludeNormsAbove = Annotated[
    float | None,
    typer.Option(
        "--exclude-norms-above",
        help="Leave out rows whose input or output norm is above this factor times the median",
    ),
]


def row_settings(skip_first: int, special_tokens: bool, exclude_norms_above: float | None) -> dict[str, Any]:
    """What these options come to as the setting `rows`: those that were given."""
    given = {"skip_first": skip_first, "special_tokens": special_tokens, "norms_above": exclude_norms_above}
    return {name: value for name, value in given.items() if value not in (0, False, None)}
