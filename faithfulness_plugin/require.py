"""Arguments that have to be numbers: one line that says so, rather than what Python makes of them later."""

from numbers import Real
from typing import Any

from faithfulness_plugin.errors import UsageError


def number(name: str, value: Any) -> Any:
    """Check that an argument is a number.

    Args:
        name: what the caller calls it.
        value: what was passed.

    Returns:
        The value as it is.

    Raises:
        UsageError: a string or anything else that is no number; True and False are none.

    Example:
        >>> number("lr", "1e-3")
        Traceback (most recent call last):
        faithfulness_plugin.errors.UsageError: lr='1e-3' is of type str: pass a number
    """
    if not isinstance(value, Real) or isinstance(value, bool):
        raise UsageError(f"{name}={value!r} is of type {type(value).__name__}: pass a number")
    return value


def whole(name: str, value: Any) -> int:
    """Check that an argument is a whole number.

    Args:
        name: what the caller calls it.
        value: what was passed.

    Returns:
        The value as an int; 1e4 is a whole number.

    Raises:
        UsageError: anything else.

    Example:
        >>> whole("n_steps", 1e4)
        10000
    """
    if number(name, value) % 1 != 0:  # true of NaN and Inf as well
        raise UsageError(f"{name}={value!r}: pass a whole number")
    return int(value)
