"""How objects show themselves: reprs of one line, and tables in notebooks."""

from __future__ import annotations

import reprlib
import sys
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

ROWS = 20
"""Rows of a long table that a notebook shows."""


class _Short(reprlib.Repr):
    """Python's abridged reprs, with numbers to four digits, arrays and tensors by shape, modules by class."""

    def __init__(self) -> None:
        super().__init__()
        self.maxtuple = self.maxlist = self.maxdict = 6
        self.maxstring, self.maxother = 80, 120

    def repr1(self, x: Any, level: int) -> str:
        if hasattr(x, "shape") and hasattr(x, "dtype") and not isinstance(x, float):
            return f"{str(x.dtype).removeprefix('torch.')}[{', '.join(map(str, x.shape))}]"
        if isinstance(x, float):
            return repr(float(f"{x:.4g}"))
        if isinstance(x, Path):
            return repr(str(x))
        if hasattr(x, "named_parameters"):  # a module
            return type(x).__name__
        if callable(x) and hasattr(x, "__name__"):
            return x.__name__
        return super().repr1(x, level)


_SHORT = _Short()


def short(value: Any) -> str:
    """Return a value's repr in one line.

    Args:
        value: anything.

    Returns:
        Numbers to four digits, arrays and tensors by dtype and shape, modules by class, long collections abridged.

    Example:
        >>> import numpy as np
        >>> short({"error": 0.123456, "weights": np.zeros((3, 4)), "rows": list(range(99))})
        "{'error': 0.1235, 'rows': [0, 1, 2, 3, 4, 5, ...], 'weights': float64[3, 4]}"
    """
    return _SHORT.repr(value)


def line(name: str, values: Mapping[str, Any]) -> str:
    """Write `name(key=value, ...)` with values in short.

    Args:
        name: what it is called, a class as a rule.
        values: what stands between the brackets, by name.

    Returns:
        One line.
    """
    return f"{name}({', '.join(f'{key}={short(value)}' for key, value in values.items())})"


def short_repr(self: Any) -> str:
    """Write a dataclass, NamedTuple or pydantic record in one line: `__repr__ = short_repr` in the class.

    Args:
        self: the object.

    Returns:
        Its class and fields, without those that are marked `repr=False`.
    """
    if is_dataclass(self):
        names: Sequence[str] = [field.name for field in fields(self) if field.repr]
    else:
        names = getattr(self, "_fields", None) or list(type(self).model_fields)
    return line(type(self).__name__, {name: getattr(self, name) for name in names})


def in_notebook() -> bool:
    """Tell whether this is a Jupyter kernel, whose output is no terminal and yet moves.

    Returns:
        False in scripts, and at the prompt of IPython.
    """
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return shell is not None and "IPKernelApp" in shell.config


class NotebookTable:
    """A result that is a table: notebooks show it as one."""

    @abstractmethod
    def to_frame(self) -> pd.DataFrame:
        """Return the result as a table of pandas.

        Returns:
            One row per entry, with the columns that a notebook shows.
        """

    def _repr_html_(self) -> str:
        table = self.to_frame()
        left_out = f"<p>{len(table) - ROWS:,} more rows</p>" if len(table) > ROWS else ""
        shown = table.head(ROWS).to_html(index=False, border=0, na_rep="", float_format=lambda v: f"{v:.4g}")
        return f"<p>{escape(repr(self))}</p>{shown}{left_out}"
