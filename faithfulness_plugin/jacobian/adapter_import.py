"""Classes of other libraries: their closed forms stand in adapters, imported when such a class is first met."""

import importlib
import sys
import warnings
from functools import cache

ADAPTERS = {
    "sparsify": "faithfulness_plugin.adapters.sparsify",
    "dictionary_learning": "faithfulness_plugin.adapters.dictionary_learning",
    "circuit_tracer": "faithfulness_plugin.adapters.circuit_tracer.regions",
}
"""The adapter of each library, by the package in which a class, or one that it inherits from, is defined."""


def adapter_imported(cls: type) -> bool:
    """Import the adapter for a class, or for what it inherits from.

    A package that only shares its name with the library, or is of another version, has none: a warning says so, once.

    Args:
        cls: the class of a transcoder that has no linear region so far.

    Returns:
        Whether an adapter was imported now, so that looking again may help.
    """
    roots = dict.fromkeys(base.__module__.partition(".")[0] for base in cls.__mro__)
    wanted = [root for root in roots if root in ADAPTERS and ADAPTERS[root] not in sys.modules]
    return sum(map(_imported, wanted)) > 0


@cache
def _imported(root: str) -> bool:
    try:
        importlib.import_module(ADAPTERS[root])
    except ImportError as error:
        warnings.warn(f"classes of {root} are differentiated by autograd: {error}", stacklevel=2)
        return False
    return True
