"""Options of commands that fill stores of a layer's rows."""

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from faithfulness_plugin.results.schema import Record


class StoreOptions(Record):
    """The setting `stores`, as options. The setting itself says which values there are."""

    keep: str = Field(
        default="derivatives",
        description="what stores keep beside the rows: derivatives; or (rows) the layer's weights alone, which takes "
        "half the space and leaves the choice of probes to training",
    )
    store_dtype: str | None = Field(
        default=None, description="dtype of what stores keep: float32, bfloat16 or float16 [default: the model's]"
    )


def store_settings(given: Mapping[str, Any]) -> dict[str, Any]:
    """Collect the setting `stores` of the options that were given.

    Args:
        given: options by name.

    Returns:
        Settings by name.
    """
    names = {"keep": "keep", "store_dtype": "dtype"}
    return {setting: given[option] for option, setting in names.items() if option in given}
