"""Classes of other libraries: their closed forms stand in adapters, imported when such a class is first met."""

import importlib
import sys

ADAPTERS = {
    "sparsify": "faithfulness_plugin.adapters.sparsify",
    "dictionary_learning": "faithfulness_plugin.adapters.dictionary_learning",
    "circuit_tracer": "faithfulness_plugin.adapters.circuit_tracer.pieces",
}
"""By the package that a class, or one that it inherits from, is defined in."""


def adapter_imported(cls: type) -> bool:
    """Imports the adapter for a class, or for what it inherits from. Returns whether there was one to import."""
    roots = dict.fromkeys(base.__module__.partition(".")[0] for base in cls.__mro__)
    wanted = [ADAPTERS[root] for root in roots if root in ADAPTERS and ADAPTERS[root] not in sys.modules]
    for name in wanted:
        importlib.import_module(name)
    return bool(wanted)
