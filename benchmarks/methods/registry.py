"""Methods by name: the shipped ones, and anyone's as `module:attribute`."""

import hashlib
import inspect
import math
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import cache
from itertools import product
from pathlib import Path

from faithfulness_plugin.benchmarks.methods.baselines import SWEEPS, TERMS, Baseline
from faithfulness_plugin.benchmarks.methods.method import Method
from faithfulness_plugin.errors import UsageError
from faithfulness_plugin.nearest import nearest
from faithfulness_plugin.results.imported import imported

BASELINES = {
    baseline.name: baseline
    for baseline in (Baseline(sweep, term, skip) for sweep, skip, term in product(SWEEPS, (False, True), TERMS))
}


class MethodError(UsageError):
    """A method that does not exist or cannot be used; the message says what to do."""


def is_outside(name: str) -> bool:
    """Return whether it names a module's attribute rather than a shipped method."""
    return ":" in name


def chosen(patterns: Sequence[str]) -> list[str]:
    """Return all methods that these names, patterns ("topk-*") and references stand for, each once.

    Raises MethodError for a pattern that stands for none."""
    names: dict[str, None] = {}
    for pattern in patterns:
        found = [pattern] if is_outside(pattern) else [name for name in BASELINES if fnmatchcase(name, pattern)]
        if not found:
            hint = nearest(pattern, list(BASELINES), n=3, otherwise="`faithfulness bench list` shows them")
            raise MethodError(
                f"there is no method {pattern!r}: {hint}; a method of your own is written my_package.my_module:method"
            )
        names |= dict.fromkeys(found)
    return list(names)


def baseline(name: str, n_steps: int) -> Baseline:
    """Return the shipped method of this name, trained for n_steps. Raises MethodError where there is none."""
    return replace(BASELINES[chosen([name])[0]], n_steps=n_steps)


@cache
def outside(reference: str) -> Method:
    """Import the method that `module:attribute` stands for; modules of the working folder are found as well.

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


def checked_strengths(name: str, strengths: object) -> list[float]:
    """Return a method's strengths as numbers. Raises MethodError where they are no distinct numbers."""
    try:
        numbers = [float(s) for s in strengths]  # pyright: ignore[reportGeneralTypeIssues]  anything may be given
    except (TypeError, ValueError):
        numbers = []
    if not numbers or not all(math.isfinite(s) for s in numbers) or len(set(numbers)) < len(numbers):
        raise MethodError(
            f"{name}: `strengths` must be distinct numbers to sweep, as in (0.1, 0.2, 0.4), not {strengths!r}"
        )
    return numbers


def source_digest(reference: str, method: Method) -> str:
    """Identify an outside method by the file that the reference names and, where that is another, the one in which
    `train` stands: a rerun finds out that they have changed."""
    files = [sys.modules[reference.partition(":")[0]].__file__ or ""]
    with suppress(TypeError):  # for a callable that is not written in Python
        files.append(inspect.getsourcefile(inspect.unwrap(method.train)) or files[0])
    try:
        return "sha256:" + hashlib.sha256(b"".join(Path(f).read_bytes() for f in dict.fromkeys(files))).hexdigest()
    except OSError:
        return "unknown"
