"""The graph of features is the chain's for the chain itself, and wrong where a layer is skipped."""

from copy import deepcopy

import pytest
import torch
from rewritten import rewritten_two_hops

from faithfulness_plugin.benchmarks.chains.config import TASKS
from faithfulness_plugin.benchmarks.chains.edges import edges_found, graph
from faithfulness_plugin.benchmarks.chains.tasks import chain_task
from faithfulness_plugin.transcoders.cross_layer_inference import CrossLayerTranscoder, ReadingPart

N_EDGES = {"two_hops": 8 + 8, "absolute_values": 2 * 8 + 2 * 4 + 4, "skipping": 8 + 2 * 4 + 4 + 8}
"""A unit ReLU(a - b) has edges from those that write a: where it is active, b is 0 or small."""


def changed(transcoder: CrossLayerTranscoder, order: torch.Tensor, scale: float) -> CrossLayerTranscoder:
    parts = []
    for part in transcoder.parts:
        W_dec = part.W_dec[order] / scale
        threshold, n = None, W_dec.shape[1]
        parts.append(
            ReadingPart(scale * part.W_enc[:, order], scale * part.b_enc[order], threshold, n, lambda of=W_dec: of)
        )
    return CrossLayerTranscoder(parts, transcoder.b_dec.view(transcoder.n_layers, -1), {})


@pytest.mark.parametrize("name", TASKS)
def test_the_chain_has_all_its_edges_and_no_other_whatever_the_order_and_scale_of_features(name):
    task = chain_task(name)
    assert len(graph(task.exact, task)) == N_EDGES[name]
    n = task.exact.parts[0].W_enc.shape[1]
    found = edges_found(changed(task.exact, torch.randperm(n), 3.0), task)
    assert (found.precision, found.recall, found.f1) == (1, 1, 1)


def test_features_that_share_a_unit_count_as_it():
    task = chain_task("two_hops")
    halves = deepcopy(task.exact)
    for part in halves.parts:  # each feature twice, at half its size
        part.W_enc, part.b_enc = part.W_enc.repeat(1, 2), part.b_enc.repeat(2)
        part.__dict__["W_dec"] = part.W_dec.repeat(2, 1) / 2
    assert graph(halves, task) == graph(task.exact, task)


def test_a_circuit_that_is_rewritten_has_none_of_the_edges():
    task = chain_task("two_hops")
    found = edges_found(rewritten_two_hops(), task)
    assert (found.precision, found.recall, found.f1) == (0, 0, 0)


def test_a_feature_that_writes_on_beside_its_own_edges_has_wrong_ones():
    task = chain_task("two_hops")
    shortcut = deepcopy(task.exact)
    W_dec = shortcut.parts[0].W_dec.clone()
    W_dec[:8, 16:20] = torch.eye(4).repeat_interleave(2, dim=0)
    shortcut.parts[0].__dict__["W_dec"] = W_dec
    found = edges_found(shortcut, task)
    assert found.recall == 1
    assert found.precision == pytest.approx(16 / 24)
