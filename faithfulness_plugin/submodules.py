"""The modules of a package as its attributes: `dir` lists them, and they are imported when they are asked for."""

from collections.abc import Callable, Iterable
from pkgutil import iter_modules
from typing import Any

import lazy_loader


def submodules(package: str, path: Iterable[str]) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """Find the modules of a package for `__getattr__, __dir__, __all__ = submodules(__name__, __path__)`.

    Args:
        package: its name.
        path: its folders.

    Returns:
        The package's `__getattr__` and `__dir__`, and the names of its modules.
    """
    return lazy_loader.attach(package, submodules=[module.name for module in iter_modules(path)])
