"""The estimators of E_v ||(J_t - J_f) v||^2, by the name that configs and files give them.

A new estimator is one file here, a subclass of `base.Estimator`, and one line in `ESTIMATORS`.
"""

from typing import Any

from faithfulness_plugin.lazy_table import LazyTable

ESTIMATORS: LazyTable[type[Any]] = LazyTable(
    {
        "jvp": f"{__name__}.jvp:Jvp",
        "vjp": f"{__name__}.vjp:Vjp",
        "secant": f"{__name__}.secant:Secant",
        "exact": f"{__name__}.exact:Exact",
    }
)
"""Subclasses of `base.Estimator`. Their modules are imported when one is asked for: names are known without torch."""

__all__ = ["ESTIMATORS"]
