"""The six ways to train that are compared."""

from faithfulness_plugin.benchmarks.note.absolute_value.schema import Condition

WARM_UP = 1 / 8
TOPK_KINK = 20.0

CONDITIONS = (
    Condition(name="baseline", title="baseline", repeated=False),
    Condition(name="repetition", title="repetition", repeated=True),
    Condition(
        name="jacobian",
        title="repetition + Jacobian",
        repeated=True,
        jacobian_coefficient=10.0,
        jacobian_warm_up=WARM_UP,
        jacobian={"estimator": "jvp", "jitter": 0.5},
    ),
    Condition(
        name="jacobian_kink",
        title="repetition + Jacobian at the kink",
        repeated=True,
        jacobian_coefficient=1.5,
        jacobian_warm_up=WARM_UP,
        jacobian={"estimator": "jvp", "jitter": 0.0},
    ),
    Condition(
        name="secant",
        title="repetition + secant",
        repeated=True,
        jacobian_coefficient=10.0,
        jacobian_warm_up=WARM_UP,
        jacobian={"estimator": "secant", "radius": 0.5},
    ),
    Condition(name="noise", title="repetition + noise augmentation", repeated=True, augmentation_coefficient=1.0),
)
"""The Jacobian conditions differ in what they differentiate: |x| at x = 0 has no derivative, and most coordinates
are 0 here. "jacobian" looks beside the kink, "jacobian_kink" at it (with a smaller coefficient, for there it fights
the layer), "secant" across it. "noise" is the control: more values from the same neighbourhood, no derivative."""


def conditions(architecture: str) -> tuple[Condition, ...]:
    """`CONDITIONS`, for TopK kinds with a larger coefficient at the kink.

    They have no penalty to be traded against. And a jittered row has no zero coordinates left: k features cannot
    follow the layer along all of them, but at the data themselves they can.
    """
    if not architecture.endswith("topk"):
        return CONDITIONS
    return tuple(
        c.model_copy(update={"jacobian_coefficient": TOPK_KINK}) if c.name == "jacobian_kink" else c for c in CONDITIONS
    )
