"""Jacobian matching in other libraries' trainers: the options that they share, and the check of the layer."""

import math
from typing import Any

from torch import Tensor

from faithfulness_plugin.jacobian.matching_config import JacobianMatchingConfig

CHECKED_ROWS, CHECKED_TO = 4, 0.05
"""The layer has to give these many rows' outputs again, up to this relative error (models run in bfloat16)."""


def matching_config(
    coefficient: float, config: JacobianMatchingConfig | None, options: dict[str, Any], no_gates: str
) -> JacobianMatchingConfig:
    """Check what another library's trainer is to match.

    Args:
        coefficient: weight of the Jacobian term.
        config: what is matched; None takes `options`.
        options: the fields of a config, in place of one.
        no_gates: why the library's transcoders take no gate_bandwidth.

    Returns:
        The config.

    Raises:
        ValueError: a negative or non-finite coefficient; a gate_bandwidth; a config and options.
    """
    if not 0 <= coefficient < math.inf:
        raise ValueError(f"coefficient={coefficient}: choose 0 (off) or a finite number above it")
    if config is not None and options:
        raise ValueError("pass either a config or its fields, not both")
    config = JacobianMatchingConfig(**options) if config is None else config
    if config.gate_bandwidth is not None:
        raise ValueError(f"gate_bandwidth={config.gate_bandwidth}: {no_gates}")
    return config


def agree(found: Tensor, wanted: Tensor) -> bool:
    """Check that a layer's outputs are those that were seen, up to rounding.

    Args:
        found: the layer's outputs.
        wanted: those that were seen.

    Returns:
        Whether shapes are equal and ||found - wanted|| is at most 5 % of ||wanted||.
    """
    return found.shape == wanted.shape and bool((found - wanted).norm() <= CHECKED_TO * wanted.norm())
