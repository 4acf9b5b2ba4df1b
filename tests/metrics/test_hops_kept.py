import numpy as np
import pytest
import torch
from cross_layer import cross_layer, rows
from rewritten import rewritten_two_hops

from faithfulness_plugin import metrics
from faithfulness_plugin.benchmarks.chains.tasks import chain_task


def test_outputs_and_sparsity_do_not_show_a_circuit_that_is_rewritten_and_hops_kept_do():
    task, rewritten = chain_task("two_hops"), rewritten_two_hops()
    found = metrics.reconstruction(rewritten, task.chain, task.clean)
    assert found.fvu == pytest.approx(0, abs=1e-9)
    assert found.effective_l0 < 0.7 * task.l0
    assert metrics.hops_kept(rewritten, task.clean).kept == 0
    assert metrics.hops_kept(task.exact, task.clean).kept == 1


def test_shares_are_the_centred_energies_of_what_each_layers_features_write():
    clt, x = cross_layer(), rows(64)
    found = metrics.hops_kept(clt, x)
    written = [
        (clt.parts[0].encode(x.chunk(3, -1)[0]) @ clt.parts[0].W_dec).chunk(3, -1)[2],
        (clt.parts[1].encode(x.chunk(3, -1)[1]) @ clt.parts[1].W_dec).chunk(2, -1)[1],
        clt.parts[2].encode(x.chunk(3, -1)[2]) @ clt.parts[2].W_dec,
    ]
    energies = torch.stack([y.var(0).sum() for y in written]).detach()
    np.testing.assert_allclose(found.shares[:, 2], (energies / energies.sum()).numpy(), rtol=1e-5)
    assert found.by_layer[1] == pytest.approx((energies[2] / energies.sum()).item(), rel=1e-5)
    assert found.kept == pytest.approx(np.mean(found.by_layer))


def test_a_path_that_skips_a_layer_is_kept_where_the_truth_has_it():
    task = chain_task("skipping")
    own = metrics.hops_kept(task.exact, task.clean)
    assert own.by_layer[0] == 1
    assert 0.2 < own.by_layer[1] < 0.8  # as if it skipped without being allowed to
    assert metrics.hops_kept(task.exact, task.clean, task.exact).kept == pytest.approx(1)


def test_one_layer_has_no_hops():
    with pytest.raises(ValueError, match="one layer has no hops"):
        metrics.hops_kept(cross_layer(n_layers=1), rows(4, 1))
