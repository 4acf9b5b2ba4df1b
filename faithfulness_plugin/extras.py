"""The package's extras: what stands in each is imported where it is used, and a missing one says what to install."""

from importlib.util import find_spec
from pathlib import Path

CHECKOUT = (Path(__file__).resolve().parents[1] / "Makefile").exists()
"""Whether the package runs from its repository, from which pip installs without an index."""


def install(extra: str) -> str:
    """Say how an extra is installed.

    Args:
        extra: its name in pyproject.toml.

    Returns:
        A command.
    """
    if CHECKOUT:
        return f"pip install '.[{extra}]'"
    return f"pip install 'faithfulness-plugin[{extra}]' (in a checkout: pip install '.[{extra}]')"


def require_extra(extra: str, *modules: str) -> None:
    """Refuse to go on without the modules of an extra, before any of them is imported.

    Args:
        extra: its name in pyproject.toml.
        modules: the modules that are needed.

    Raises:
        ImportError: one is missing.
    """
    for module in modules:
        if find_spec(module) is None:
            raise ImportError(f"this needs {module}, which is not installed: {install(extra)}", name=module)
