"""Tables of names whose values are imported when they are asked for, so that a wrong name is refused at once."""

import importlib
from collections.abc import Iterator, Mapping, MutableMapping
from typing import Any, TypeVar

T = TypeVar("T")


class LazyTable(MutableMapping[str, T]):
    """A mapping of names to objects in modules that are imported at the first use of a name.

    Args:
        places: "module:attribute" by name; names that are added may have an object, or such a place.
    """

    def __init__(self, places: Mapping[str, str]) -> None:
        self._places: dict[str, str | T] = dict(places)

    def __getitem__(self, name: str) -> T:
        found: Any = self._places[name]
        if isinstance(found, str):
            module, _, attribute = found.partition(":")
            found = self._places[name] = getattr(importlib.import_module(module), attribute)
        return found

    def __setitem__(self, name: str, value: T | str) -> None:
        self._places[name] = value

    def __delitem__(self, name: str) -> None:
        del self._places[name]

    def __contains__(self, name: object) -> bool:
        return name in self._places

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)
