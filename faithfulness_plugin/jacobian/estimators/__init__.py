"""The estimators of E_v ||(J_t - J_f) v||^2, by the name that configs and files give them.

A new estimator is one file here, a subclass of `base.Estimator`, and one line in `ESTIMATORS`.
"""

from faithfulness_plugin.jacobian.estimators.base import Estimator
from faithfulness_plugin.jacobian.estimators.exact import Exact
from faithfulness_plugin.jacobian.estimators.jvp import Jvp
from faithfulness_plugin.jacobian.estimators.secant import Secant
from faithfulness_plugin.jacobian.estimators.vjp import Vjp

ESTIMATORS: dict[str, type[Estimator]] = {cls.name: cls for cls in (Jvp, Vjp, Secant, Exact)}

__all__ = ["ESTIMATORS", "Estimator"]
