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
from typing import TYPE_CHECKING

from faithfulness_plugin.benchmarks.methods.baselines import SWEEPS, TERMS, Baseline
from faithfulness_plugin.errors import UsageError
from faithfulness_plugin.nearest import nearest
from faithfulness_plugin.results.imported import import_object

if TYPE_CHECKING:
    from faithfulness_plugin.benchmarks.methods.method import Method

BASELINES = {
    baseline.name: baseline
    for baseline in (Baseline(sweep, term, skip) for sweep, skip, term in product(SWEEPS, (False, True), TERMS))
}


class MethodError(UsageError):
    """A method that does not exist or cannot be used; the message says what to do."""


def is_outside(name: str) -> bool:
    """Check whether a name is a module's attribute rather than a shipped method.

    Args:
        name: of a method.

    Returns:
        True for "module:attribute".
    """
    return ":" in name


def expand_methods(patterns: Sequence[str]) -> list[str]:
    """Expand names, patterns ("topk-*") and references to methods.

    Args:
        patterns: what was given.

    Returns:
        The methods' names, each once.

    Raises:
        MethodError: a pattern stands for none.
    """
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
    """Look up a shipped method.

    Args:
        name: its name.
        n_steps: optimizer steps that it is trained for.

    Returns:
        The method.

    Raises:
        MethodError: there is none of that name.
    """
    return replace(BASELINES[expand_methods([name])[0]], n_steps=n_steps)


@cache
def import_method(reference: str) -> "Method":
    """Import an outside method; modules of the working folder are found as well.

    Args:
        reference: "module:attribute".

    Returns:
        The method.

    Raises:
        MethodError: it cannot be imported, is no method, or has no distinct numbers as strengths.
    """
    try:
        method = import_object(reference)
    except ValueError as error:
        raise MethodError(f"the method {error}") from error
    if not callable(getattr(method, "train", None)):
        raise MethodError(
            f"{reference} has no `train`: a method has train(layer, inputs, *, seed, strength) and strengths"
        )
    strengths = getattr(method, "strengths", ())
    try:
        numbers = {float(s) for s in strengths if math.isfinite(s)}
        usable = 0 < len(numbers) == len(strengths)
    except (TypeError, ValueError):
        usable = False
    if not usable:
        raise MethodError(
            f"{reference}: `strengths` must be distinct numbers to sweep, as in (0.1, 0.2, 0.4), not {strengths!r}"
        )
    return method


def source_digest(reference: str, method: "Method") -> str:
    """Digest the file that a reference names and, where that is another, the one in which `train` stands: a rerun
    notices when they have changed.

    Args:
        reference: "module:attribute".
        method: what it stands for.

    Returns:
        "sha256:" and the digest, or "unknown".
    """
    files = [sys.modules[reference.partition(":")[0]].__file__ or ""]
    with suppress(TypeError):  # for a callable that is not written in Python
        files.append(inspect.getsourcefile(inspect.unwrap(method.train)) or files[0])
    try:
        return "sha256:" + hashlib.sha256(b"".join(Path(f).read_bytes() for f in dict.fromkeys(files))).hexdigest()
    except OSError:
        return "unknown"
