"""What stores keep of a layer: the settings."""

from typing import Literal

from pydantic import Field

from faithfulness_plugin.results.schema import Record


class StoreSettings(Record):
    """What the stores keep that a run trains from."""

    keep: Literal["derivatives", "rows"] = Field(
        default="derivatives",
        description="derivatives: rows, probes and the layer's products; rows: rows and the layer's weights, half the "
        "size or less, where the weights are known: probes and estimator are then chosen at every training",
    )
    dtype: Literal["float32", "bfloat16", "float16"] | None = Field(
        default=None, description="of what is kept; null for the model's"
    )


AS_BEFORE = StoreSettings()
"""Derivatives, in the model's dtype."""
