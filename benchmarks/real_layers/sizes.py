"""The experiment in two sizes."""

from itertools import product
from typing import Any

NONE = {"term": "none"}
LIGHT, MODERATE, FULL = 0.2, 0.3, 0.5
"""Coefficients. In a first look at block 10 jvp at the first and secants at the second left FVU about where it was."""


def _arm(term: str, probe: str, coefficient: float, **more: Any) -> dict[str, Any]:
    return {"term": term, "probe": probe, "coefficient": coefficient, **more}


CPU: dict[str, Any] = {
    "blocks": [10, 24],
    "kinds": [{"architecture": "topk", "sparsity": 32}],
    "arms": [
        NONE,
        _arm("jvp", "isotropic", LIGHT),
        _arm("jvp", "difference", LIGHT),
        _arm("jvp", "pair", LIGHT),
        _arm("secant", "difference", MODERATE),
        _arm("secant", "pair", MODERATE),
        _arm("augmentation", "difference", FULL),
    ],
    "line": [{"architecture": "topk", "sparsity": 16}, {"architecture": "topk", "sparsity": 64}],
    "passage": {"blocks": [10], "arms": [NONE, _arm("secant", "pair", MODERATE)]},
    "stored_prompts": 1280,
    "tokens": 512_000,
}
"""14 transcoders of two layers at k 32, four at other k, two with the passage: on two cores."""

TERMS = [
    _arm(term, probe, c)
    for term, probe, c in product(("jvp", "secant"), ("isotropic", "difference", "pair"), (LIGHT, FULL))
]
CONTROLS = [_arm("augmentation", probe, c) for probe, c in product(("isotropic", "difference"), (LIGHT, FULL))]
GATES = [_arm("jvp", probe, LIGHT, gate_bandwidth=1.0) for probe in ("difference", "pair")]

GPU: dict[str, Any] = {
    "blocks": [5, 10, 15, 20, 24],
    "kinds": [
        {"architecture": architecture, "sparsity": sparsity, "skip": skip}
        for (architecture, sparsities), skip in product((("topk", (32, 64)), ("relu", (1.0, 3.0))), (False, True))
        for sparsity in sparsities
    ],
    "arms": [NONE, *TERMS, *CONTROLS, *GATES],
    "line": [{"architecture": "topk", "sparsity": k} for k in (8, 16, 128)],
    "passage": {"blocks": [10, 24], "arms": [NONE, *TERMS, *CONTROLS]},
    "seeds": 3,
    "d_sae": 9216,
    "stored_prompts": 12_000,
    "prompts_per_shard": 128,
    "tokens": 6_000_000,
    "batch_size": 4096,
    "prompts_per_pass": 64,
    "held_out_prompts": 128,
    "spliced_prompts": 64,
    "device": "cuda",
}
"""The whole grid: a larger dictionary, more tokens, layers, sparsities, coefficients, seeds, and skip connections."""

SIZES = {"cpu": CPU, "gpu": GPU}
