"""What changed between two sets of settings, in words."""

from collections.abc import Mapping
from typing import Any


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """ "name old, not new; ..." for the names of `here` whose value differs in `there`; "" where none does."""
    return "; ".join(f"{name} {there.get(name)}, not {here[name]}" for name in here if there.get(name) != here[name])
