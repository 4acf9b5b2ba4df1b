"""The six ways to train that are compared."""

from typing import Any

from faithfulness_plugin.benchmarks.note.absolute_value.schema import Arm
from faithfulness_plugin.benchmarks.note.scan.settings import Architecture

TOPK_KINK = 20.0


def _matched(name: str, title: str, coefficient: float, **jacobian: Any) -> Arm:
    return Arm(
        name=name,
        title=f"repetition + {title}",
        repeated=True,
        jacobian_coefficient=coefficient,
        jacobian_warm_up=1 / 8,
        jacobian=jacobian,
    )


ARMS = (
    Arm(name="baseline", title="baseline", repeated=False),
    Arm(name="repetition", title="repetition", repeated=True),
    _matched("jacobian", "Jacobian", 10.0, estimator="jvp", jitter=0.5),
    _matched("jacobian_kink", "Jacobian at the kink", 1.5, estimator="jvp", jitter=0.0),
    _matched("secant", "secant", 10.0, estimator="secant", radius=0.5),
    Arm(name="noise", title="repetition + noise augmentation", repeated=True, augmentation_coefficient=1.0),
)
"""The Jacobian arms differ in what they differentiate: |x| at x = 0 has no derivative, and most coordinates are 0 here.
"jacobian" looks beside the kink, "jacobian_kink" at it (with a smaller coefficient, for there it fights the layer),
"secant" across it. "noise" is the control: more values from the same neighbourhood, no derivative."""


def arms_of(architecture: Architecture) -> tuple[Arm, ...]:
    """Return `ARMS`, for TopK and BatchTopK with a larger coefficient at the kink.

    They have no penalty to be traded against. And a jittered row has no zero coordinates left: k features cannot
    follow the layer along all of them, but at the data themselves they can.

    Args:
        architecture: how the transcoders of all arms are kept sparse.

    Returns:
        The six arms, in the order of tables.
    """
    if not architecture.endswith("topk"):
        return ARMS
    larger = {"jacobian_coefficient": TOPK_KINK}
    return tuple(arm.model_copy(update=larger) if arm.name == "jacobian_kink" else arm for arm in ARMS)
