"""Say in words how two sets of settings differ."""

import re
from collections.abc import Mapping
from math import isclose
from typing import Any

SIZE = re.compile(r", size (\S+)$")
SAME_SIZE = 2e-3
"""A size has 4 digits, of which two processors may round the last one differently."""


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """Say what changed between two sets of settings.

    Sizes at the end of a text (`with_size`) are compared as numbers, to three digits.

    Args:
        there: the settings that were saved.
        here: today's; only their names are compared.

    Returns:
        "name old, not new; ..."; "" where nothing differs.
    """
    changed = [name for name in here if _differ(there.get(name), here[name])]
    return "; ".join(f"{name} {there.get(name)}, not {here[name]}" for name in changed)


def with_size(text: str, size: float) -> str:
    """Join a text and a number that was computed, for something that text alone does not identify.

    Args:
        text: what identifies it but for the number.
        size: the number, of which 4 digits are kept.

    Returns:
        "TEXT, size SIZE".
    """
    return f"{text}, size {size:.4g}"


def without_size(text: str) -> str:
    """Cut the computed number off a text: what is left does not depend on rounding.

    Args:
        text: a text of `with_size`, or any other.

    Returns:
        The text in front of the number, or all of it.
    """
    return SIZE.sub("", text)


def _differ(one: Any, other: Any) -> bool:
    if one == other or not (isinstance(one, str) and isinstance(other, str)):
        return one != other
    sizes = [SIZE.search(text) for text in (one, other)]
    if without_size(one) != without_size(other) or not all(sizes):
        return True
    return not isclose(*(float(size[1]) for size in sizes if size), rel_tol=SAME_SIZE)
