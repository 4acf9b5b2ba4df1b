"""Options of commands that say which rows of a text count."""

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from faithfulness_plugin.results.schema import Record


class RowOptions(Record):
    """The setting `rows`, as options."""

    skip_first: int = Field(default=0, ge=0, description="leave out this many positions at the start of every prompt")
    special_tokens: bool = Field(
        default=False, description="let special tokens count as well; by default they are left out"
    )
    exclude_norms_above: float | None = Field(
        default=None,
        gt=1,
        description="leave out rows whose input or output norm is above this factor times the median",
    )


ROW_OPTIONS = {
    "rows.norms_above": "exclude-norms-above",
    "rows.skip_first": "skip-first",
    "rows.special_tokens": "special-tokens",
}
"""These options by the settings that they give."""


def row_settings(given: Mapping[str, Any]) -> dict[str, Any]:
    """Collect the setting `rows` of the options that were given.

    Args:
        given: options by name.

    Returns:
        Settings by name, also where they are 0, which overrides what a file of settings says.
    """
    names = {"skip_first": "skip_first", "special_tokens": "special_tokens", "exclude_norms_above": "norms_above"}
    return {setting: given[option] for option, setting in names.items() if option in given}
