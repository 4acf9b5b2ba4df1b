"""The arms (methods, or transcoders) that result files hold, by the names that a command was given."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

from faithfulness_plugin.differences import differences
from faithfulness_plugin.errors import UsageError
from faithfulness_plugin.nearest import nearest

T = TypeVar("T")


def arms_by_name(kind: str, arms: Iterable[tuple[str, Mapping[str, Any], T]]) -> dict[str, T]:
    """Collect the arms of several results by name, the first result's first.

    Args:
        kind: what an arm is called: "method" or "transcoder".
        arms: each arm's name, the settings that decide its numbers, and the arm.

    Returns:
        The arms by name.

    Raises:
        UsageError: two results hold different arms of one name.
    """
    found: dict[str, tuple[Mapping[str, Any], T]] = {}
    for name, settings, arm in arms:
        before, _ = found.setdefault(name, (settings, arm))
        if changed := differences(before, settings):
            raise UsageError(
                f"two results hold a {kind} {name}, with different settings ({changed}): compare results that agree"
            )
    return {name: arm for name, (_, arm) in found.items()}


def require_known(kind: str, names: Iterable[str], known: Sequence[str]) -> None:
    """Refuse names that the results do not have, with the closest matches.

    Args:
        kind: what is named: "method", "task" or "score".
        names: the names that were given.
        known: the names that exist.

    Raises:
        UsageError: for the first name that is not known.
    """
    for name in names:
        if name not in known:
            raise UsageError(f"the results have no {kind} {name!r}: {nearest(name, known, n=3)}")


def arms_of_card(kind: str, name: str, against: str, known: Sequence[str]) -> list[str]:
    """Choose the arm that a card is about, and the other one that is drawn beside it.

    Args:
        kind: what an arm is called: "method" or "transcoder".
        name: may be empty where one arm only is known.
        against: the other arm; may be empty.
        known: the names that exist.

    Returns:
        One name or two.

    Raises:
        UsageError: a name is not known, or there are several and none is given.
    """
    if not name and len(known) > 1:
        raise UsageError(f"the result holds {len(known)} {kind}s: pass --method, such as {known[0]}")
    names = [name or known[0], *([against] if against else [])]
    require_known(kind, names, known)
    return list(dict.fromkeys(names))
