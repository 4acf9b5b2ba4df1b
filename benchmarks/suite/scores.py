"""The scores of a transcoder at a task. Definitions, units and directions stand in the fields' descriptions."""

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor

from faithfulness_plugin import metrics
from faithfulness_plugin.benchmarks.suite.schema import Scores
from faithfulness_plugin.benchmarks.tasks.task import N_JACOBIAN, KeepsWhat, Mechanism, Task
from faithfulness_plugin.jacobian.exact import transcoder_jacobian
from faithfulness_plugin.jacobian.probes import difference, gaussian
from faithfulness_plugin.layers.derivatives import layer_jvp
from faithfulness_plugin.seeds import derived_seed
from faithfulness_plugin.toy.exact_transcoder import exact_transcoder

STEP = 0.5


def score(task: Task, transcoders: Sequence[Any]) -> Scores:
    """Score one transcoder a hop.

    Args:
        task: the layers and their mechanism.
        transcoders: one a hop, in `eval` mode.

    Returns:
        Means over hops; of the headline, the product.

    Raises:
        ValueError: a transcoder's outputs do not fit the layer, or are not finite.
    """
    each = [_score_hop(hop, transcoder, task.keeps) for hop, transcoder in zip(task.hops, transcoders, strict=True)]
    means = {name: sum(getattr(s, name) for s in each) / len(each) for name in Scores.model_fields}
    return Scores(**{**means, "headline": prod(s.headline for s in each)})


def l0_of(task: Task) -> float:
    """Compute the layer's own effective L0.

    Args:
        task: the layers.

    Returns:
        Features per row, the mean over hops.
    """
    return sum(hop.l0 for hop in task.hops) / len(task.hops)


@torch.no_grad()
def _score_hop(hop: Mechanism, transcoder: Any, keeps: KeepsWhat) -> Scores:
    reconstruction = metrics.reconstruction(transcoder, hop.layer, hop.clean)
    memorization = _mean_memorization(hop, transcoder)
    recovery = metrics.feature_recovery(transcoder, hop.repeated, hop.circuits)
    rows = hop.clean[:N_JACOBIAN]
    generator = torch.Generator().manual_seed(derived_seed(0, "evaluation steps"))
    # one step a row, [rows, d_in]: half the rms coordinate at random, and half-way to another row
    isotropic = gaussian(hop.clean, 1, generator)[0] * hop.clean.square().mean().sqrt()
    to_others = difference(hop.clean, 1, generator)[0]
    total = recovery.precision + recovery.recall
    f1 = 2 * recovery.precision * recovery.recall / total if total else 0.0
    return Scores(
        headline=_headline(hop, keeps, memorization, reconstruction.fvu, f1),
        memorization=memorization,
        circuits_f1=f1,
        l0=reconstruction.effective_l0,
        l0_gap=reconstruction.effective_l0 - hop.l0,
        jacobian_error=_jacobian_error(hop, transcoder, rows),
        response_error=metrics.response(transcoder, hop.layer, hop.clean, isotropic, [STEP]).error[0],
        response_error_data=metrics.response(transcoder, hop.layer, hop.clean, to_others, [STEP]).error[0],
        fvu=reconstruction.fvu,
        fvu_shifted=metrics.reconstruction(transcoder, hop.layer, hop.shifted).fvu,
        dead_fraction=reconstruction.dead_fraction,
    )


def _mean_memorization(hop: Mechanism, transcoder: Any) -> float:
    """Compute m as a fraction of its maximum, averaged over the points."""
    each = [metrics.memorization(transcoder, p, layer=hop.layer, basis=hop.writes).fraction for p in hop.points]
    return sum(each) / len(each)


def _headline(hop: Mechanism, keeps: KeepsWhat, memorization: float, fvu: float, f1: float) -> float:
    if keeps == "nothing":
        return f1
    lost = memorization
    if keeps == "memory":
        own = _mean_memorization(hop, exact_transcoder(hop.layer))
        lost = abs(memorization - own) / own
    return max(0.0, 1 - lost) * max(0.0, 1 - fvu)


def _jacobian_error(hop: Mechanism, transcoder: Any, rows: Tensor) -> float:
    """Return the relative error over the directions that count at each row."""
    directions = hop.rows.directions.to(rows)
    # [rows, 1, directions], where the layer has a derivative along the direction
    counts = hop.differentiable[:, None]
    # v [directions, rows, d_in]: every direction at every row
    v = directions[:, None].expand(-1, *rows.shape)
    # J_f u [directions, rows, d_out] -> [rows, d_out, directions]
    of_layer = layer_jvp(hop.layer, rows, v)[1].movedim(0, -1)
    # [rows, d_out, d_in] @ [d_in, directions]
    of_transcoder = transcoder_jacobian(transcoder, rows) @ directions.T
    return float(((of_transcoder - of_layer).square() * counts).sum() / (of_layer.square() * counts).sum())
