"""Results of `faithfulness experiment real-layers`, made up."""

from typing import Any

from faithfulness_plugin.benchmarks.real_layers.arms import Arm
from faithfulness_plugin.benchmarks.real_layers.config import RealLayersConfig
from faithfulness_plugin.benchmarks.real_layers.kinds import Kind
from faithfulness_plugin.benchmarks.real_layers.schema import RealLayersResult, RunRecord
from faithfulness_plugin.measure.schema import LayerRecord, PassageRecord, SplicedRecord
from faithfulness_plugin.metrics.result import DIRECTIONS
from faithfulness_plugin.results.schema import Environment

SMALL: dict[str, Any] = {
    "blocks": [1],
    "kinds": [{"sparsity": 4}],
    "line": [],
    "passage": None,
    "d_sae": 24,
    "stored_prompts": 12,
    "prompts_per_shard": 4,
    "tokens": 320,
    "batch_size": 32,
    "context_size": 16,
    "prompts_per_pass": 4,
    "held_out_prompts": 72,
    "spliced_prompts": 4,
    "jacobian_rows": 1,
    "response_rows": 1,
}
"""Settings, without a model, a text and arms, under which a run takes about a second."""
DISTANCES = [0.25, 0.5, 1.0]


def arm_record(
    arm: Arm,
    *,
    error: list[float] | None = None,
    jacobian: list[float] | None = None,
    response: list[float] | None = None,
    floor: float = 0.2,
    floors: tuple[float, float] | None = (0.2, 0.1),
    ce: float | None = 0.1,
    cosine: float = 0.3,
    **more: Any,
) -> RunRecord:
    """A run; half of everything is wrong where nothing is said. `floor`: at every prompt, as `floors` without a skip
    connection and with the mean Jacobian. `ce`: what it costs, nats a token."""
    n = len(error or jacobian or response or [0, 0])
    error, jacobian, response = (of or [0.5] * n for of in (error, jacobian, response))
    fields: dict[str, Any] = {
        "block": 0,
        "kind": Kind(),
        "seed": 0,
        "repeated": False,
        "l0": 32.0,
        "dead_fraction": 0.1,
        "ce": 3.0,
        "ce_recovered": 0.9,
        "kl": 0.1,
        "passage": None,
        "seconds": 10.0,
        "peak_memory": 2_000_000_000,
        "floors": floors
        and {
            name: dict.fromkeys(DIRECTIONS, [at] * n)
            for name, at in zip(("no skip", "mean Jacobian"), floors, strict=True)
        },
        "spliced": None
        if ce is None
        else SplicedRecord(tokens=10, ce=[30 + 10 * ce] * n, ce_clean=[30.0] * n, ce_zero=[40.0] * n, kl=[1.0] * n),
        **more,
    }
    return RunRecord(
        arm=arm,
        error=error,
        jacobian_error=dict.fromkeys(DIRECTIONS, jacobian),
        jacobian_cosine=dict.fromkeys(DIRECTIONS, cosine),
        floor=dict.fromkeys(DIRECTIONS, [floor] * n),
        response_error={d: [response] * len(DISTANCES) for d in DIRECTIONS},
        response_cosine={d: [0.5] * len(DISTANCES) for d in DIRECTIONS},
        **fields,
    )


def passage_record(share: float) -> PassageRecord:
    return PassageRecord(share=share, own_features=3, fvu=0.05, rate_elsewhere=[0.0, 0.4], carried=[share, 0.2])


def result_of(
    trained: list[RunRecord],
    *,
    variance: list[float] | None = None,
    jacobian: list[float] | None = None,
    response: list[float] | None = None,
    **config: Any,
) -> RealLayersResult:
    """Of these runs; what errors are divided by is 1 a prompt where nothing is said."""
    n = len(trained[0].error)
    variance, jacobian, response = (of or [1.0] * n for of in (variance, jacobian, response))
    blocks = sorted({t.block for t in trained})
    layers = [
        LayerRecord(
            block=block,
            hook_in="in",
            hook_out="out",
            variance=variance,
            jacobian=dict.fromkeys(DIRECTIONS, jacobian),
            response={d: [response] * len(DISTANCES) for d in DIRECTIONS},
            ce_clean=2.9,
            ce_zero=4.0,
        )
        for block in blocks
    ]
    arms = list(dict.fromkeys([Arm(), *(of for t in trained for of in (t.arm.baseline, t.arm))]))
    settings: dict[str, Any] = {
        "blocks": blocks,
        "kinds": [Kind()],
        "arms": arms,
        "line": [],
        "passage": None,
        "stored_prompts": 9,
        "tokens": 600,
        "distances": DISTANCES,
        **config,
    }
    return RealLayersResult(
        complete=True,
        environment=Environment.here(),
        model="made up",
        config=RealLayersConfig(**settings),
        layers=layers,
        permuted=layers if any(t.arm.layer == "permuted" for t in trained) else [],
        trained=trained,
    )
