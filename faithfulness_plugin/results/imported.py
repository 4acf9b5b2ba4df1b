"""Objects of anybody's modules, by name."""

import importlib
import os
import sys
from typing import Any

from faithfulness_plugin.messages import one_line


def import_object(reference: str) -> Any:
    """Import an object by name; modules of the working folder are found as well.

    Args:
        reference: `module:attribute`.

    Returns:
        The object.

    Raises:
        ValueError: it cannot be imported.
    """
    module_name, _, attribute = reference.partition(":")
    if (here := os.getcwd()) not in sys.path:
        sys.path.insert(0, here)
    try:
        return getattr(importlib.import_module(module_name), attribute)
    except Exception as error:  # whatever somebody's module raises when it is imported
        raise ValueError(
            f"{reference} cannot be imported ({one_line(error)}): check the name and PYTHONPATH"
        ) from error
