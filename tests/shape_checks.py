"""The run-time checks of annotations, each kind of call once.

A check reads types, dtypes and shapes (and values, where an annotation names some): a call whose arguments and outcome
are alike in these passes again. To check it again takes half of the suite's time.
"""

import functools
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from types import FunctionType
from typing import Any

import jaxtyping
import numpy
import torch

LONGEST = 8
"""A collection with more items is checked at every call."""
_in_full = jaxtyping.jaxtyped


class _Unknown(Exception):
    """What a check would say of this value does not follow from what is quick to read."""


@dataclass
class _Seen:
    values: bool
    """Whether annotations may name values, such as those of a Literal."""
    one_item: bool
    """Whether a check may read one random item of a collection, as that of `tuple[int, ...]` does."""
    outcomes: dict[Any, set[Any]] = field(default_factory=dict)
    """By the kinds of a call's arguments, the kinds of what it has returned and passed with."""


_SEEN: dict[Any, _Seen] = {}


def install() -> None:
    """Let jaxtyping's import hook decorate functions with the quick checks."""
    jaxtyping.jaxtyped = quick


def quick(fn: Any = None, *, typechecker: Any) -> Any:
    """Decorate as jaxtyping.jaxtyped does, but check a call in full only where no call of its kind has passed."""
    if fn is None:
        return functools.partial(quick, typechecker=typechecker)
    if not isinstance(fn, FunctionType):
        return _in_full(fn, typechecker=typechecker)
    seen = _seen(fn)
    outcomes = seen.outcomes
    checked: Any = None

    @functools.wraps(fn)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        nonlocal checked
        if jaxtyping.config.jaxtyping_disable:
            return fn(*args, **kwargs)
        call = _kinds(seen, args, kwargs)
        if (kinds := outcomes.get(call)) is not None:
            outcome = fn(*args, **kwargs)
            if (kind := _kinds(seen, (outcome,), None)) not in kinds:
                _in_full(_returning(fn, outcome), typechecker=typechecker)(*args, **kwargs)
                if kind is not None:
                    kinds.add(kind)
            return outcome
        if checked is None:
            checked = _in_full(fn, typechecker=typechecker)
        outcome = checked(*args, **kwargs)
        kind = _kinds(seen, (outcome,), None)
        if call is not None and kind is not None:
            outcomes[call] = {kind}
        return outcome

    return wrapper


def _seen(fn: FunctionType) -> _Seen:
    """Look up what is known of the function. The functions that one piece of code makes at its calls count as one."""
    key = (fn.__module__, fn.__code__, tuple(fn.__annotations__.items()))
    if key not in _SEEN:
        text = " ".join(map(repr, fn.__annotations__.values()))
        anything = "ForwardRef" in text or any(isinstance(of, str) for of in fn.__annotations__.values())
        several = (", ...]", "Sequence", "Iterable", "Collection", "Reversible", "Container")
        _SEEN[key] = _Seen(anything or "Literal" in text, anything or any(word in text for word in several))
    return _SEEN[key]


def _returning(fn: FunctionType, outcome: Any) -> FunctionType:
    """A function of the same signature that returns the outcome."""

    def given(*_args: Any, **_kwargs: Any) -> Any:
        return outcome

    twin = FunctionType(given.__code__, fn.__globals__, fn.__name__, None, given.__closure__)
    functools.update_wrapper(twin, fn)
    return twin


def _kinds(seen: _Seen, args: tuple[Any, ...], kwargs: dict[str, Any] | None) -> Any:
    """What a check may read of these values; None where that is not known."""
    try:
        kinds = [_READERS[type(value)](value, seen) for value in args]
        if kwargs:
            kinds += [(key, _READERS[type(value)](value, seen)) for key, value in kwargs.items()]
    except _Unknown:
        return None
    return tuple(kinds)


def _reader(of: type) -> Callable[[Any, _Seen], Any]:
    if issubclass(of, torch.Tensor | numpy.ndarray):
        return _array
    if issubclass(of, dict):
        return _mapping
    if issubclass(of, tuple | list):
        return _sequence
    if issubclass(of, str | int):
        return _plain
    if issubclass(of, type):
        return _class
    return _collection if issubclass(of, Collection) else _object


def _array(value: Any, seen: _Seen) -> Any:
    return type(value), value.dtype, tuple(value.shape)


def _mapping(value: Any, seen: _Seen) -> Any:
    if len(value) > LONGEST:
        raise _Unknown
    return type(value), *((key, _READERS[type(item)](item, seen)) for key, item in value.items())


def _sequence(value: Any, seen: _Seen) -> Any:
    kinds = [_READERS[type(item)](item, seen) for item in value]
    drawn = seen.one_item or isinstance(value, list)
    if len(kinds) > LONGEST or (drawn and any(kind != kinds[0] for kind in kinds)):
        raise _Unknown
    return type(value), *kinds


def _plain(value: Any, seen: _Seen) -> Any:
    return (type(value), value) if seen.values else type(value)


def _class(value: Any, seen: _Seen) -> Any:
    return type, value


def _collection(value: Any, seen: _Seen) -> Any:
    raise _Unknown


def _object(value: Any, seen: _Seen) -> Any:
    return type(value)


class _Readers(dict[type, Callable[[Any, _Seen], Any]]):
    """What reads the kind of a value, by the value's type."""

    def __missing__(self, of: type) -> Callable[[Any, _Seen], Any]:
        self[of] = _reader(of)
        return self[of]


_READERS = _Readers()
