"""Methods by name: those that come with the benchmark, and anyone's as `module:attribute`."""

import hashlib
import inspect
import math
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path

from faithfulness_plugin.benchmarks.methods.baselines import ARCHITECTURES, OBJECTIVES, Baseline
from faithfulness_plugin.benchmarks.methods.method import Method
from faithfulness_plugin.nearest import nearest
from faithfulness_plugin.results.imported import imported

BASELINES: dict[str, Baseline] = {
    baseline.name: baseline
    for baseline in (
        Baseline(architecture, objective, skip)
        for architecture in ARCHITECTURES
        for skip in (False, True)
        for objective in OBJECTIVES
    )
}


class MethodError(ValueError):
    """A method that cannot be found or used; the message says what to do."""


def baselines(pattern: str) -> list[str]:
    """The shipped methods that a name or a pattern ("topk-*") stands for. Raises MethodError for none."""
    found = [name for name in BASELINES if fnmatchcase(name, pattern)]
    if not found:
        hint = nearest(pattern, list(BASELINES), n=3, otherwise="`faithfulness bench list` shows them")
        raise MethodError(
            f"there is no method {pattern!r}: {hint}; a method of your own is written my_package.my_module:method"
        )
    return found


def baseline(name: str, n_steps: int) -> Baseline:
    """The shipped method of this name, trained for that long."""
    return replace(BASELINES[baselines(name)[0]], n_steps=n_steps)


def is_outside(name: str) -> bool:
    """Whether it names a module's attribute rather than a shipped method."""
    return ":" in name


@cache
def outside(reference: str) -> Method:
    """The object that `module:attribute` stands for, modules of the working folder included.

    Raises MethodError for one that cannot be imported, or is no method."""
    try:
        method = imported(reference)
    except ValueError as error:
        raise MethodError(f"the method {error}") from error
    if not callable(getattr(method, "train", None)):
        raise MethodError(
            f"{reference} has no `train`: a method has train(layer, inputs, *, seed, strength) and strengths"
        )
    checked_strengths(reference, getattr(method, "strengths", ()))
    return method


def checked_strengths(name: str, strengths: object) -> tuple[float, ...]:
    """As numbers. Raises MethodError for none, or for others."""
    try:
        numbers = tuple(float(s) for s in strengths)  # pyright: ignore[reportGeneralTypeIssues]  or it is told
    except (TypeError, ValueError):
        numbers = ()
    if not numbers or not all(math.isfinite(s) for s in numbers) or len(set(numbers)) < len(numbers):
        raise MethodError(
            f"{name}: `strengths` must be distinct numbers to sweep, as in (0.1, 0.2, 0.4), not {strengths!r}"
        )
    return numbers


def source_digest(reference: str, method: Method) -> str:
    """Of the file that the reference names, and of the one in which `train` stands, where that is another: a rerun can
    tell that they have changed."""
    files = [sys.modules[reference.partition(":")[0]].__file__ or ""]
    with suppress(TypeError):  # of a callable that is not written in Python
        files.append(inspect.getsourcefile(inspect.unwrap(method.train)) or files[0])
    try:
        return "sha256:" + hashlib.sha256(b"".join(Path(f).read_bytes() for f in dict.fromkeys(files))).hexdigest()
    except OSError:
        return "unknown"


def chosen(patterns: Sequence[str]) -> list[str]:
    """All methods that these names, patterns and references stand for, each once."""
    names = [name for pattern in patterns for name in ([pattern] if is_outside(pattern) else baselines(pattern))]
    return list(dict.fromkeys(names))
