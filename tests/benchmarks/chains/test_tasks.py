"""The chains are what they are said to be."""

import pytest
import torch

from faithfulness_plugin import metrics
from faithfulness_plugin.benchmarks.chains.config import TASKS
from faithfulness_plugin.benchmarks.chains.tasks import CHAINS, chain_task
from faithfulness_plugin.benchmarks.tasks.registry import task
from faithfulness_plugin.layers.derivatives import layer_jvp


def test_the_config_knows_all_chains():
    assert tuple(CHAINS) == TASKS


@pytest.mark.parametrize("name", TASKS)
def test_the_exact_transcoder_is_the_chain(name):
    chain = chain_task(name)
    torch.testing.assert_close(chain.exact(chain.clean), chain.chain(chain.clean))
    read, written = chain.chain.split(chain.clean), chain.chain.split(chain.chain(chain.clean))
    chain.chain.require_link(read, written)
    assert metrics.reconstruction(chain.exact, chain.chain, chain.clean).effective_l0 == chain.l0


def test_two_hops_is_the_first_tracks():
    hops = task("two_hops").hops
    chain = chain_task("two_hops")
    bits = hops[0].clean
    ands = hops[0].layer(bits)
    first, second = chain.chain.split(chain.chain(chain.chain.rows(bits)))
    torch.testing.assert_close(first[:, :8], ands)
    torch.testing.assert_close(second[:, :4], hops[1].layer(ands))
    assert not first[:, 8:].any()
    assert chain.l0 == pytest.approx(sum(hop.l0 for hop in hops), abs=0.05)


def test_the_chain_of_absolute_values():
    x = torch.tensor([[-1.0, 0.25, 0.0, 0.5, 0.0, 0.0, 0.75, 0.0]])
    chain = chain_task("absolute_values").chain
    _, _, last = chain.split(chain(chain.rows(x)))
    assert last[0, :2].tolist() == [0.25, 0.75]


def test_one_path_of_the_residual_chain_skips_a_layer_and_nothing_else_reads_what_is_erased():
    x = torch.zeros(1, 16)
    x[0, 8], x[0, 0] = -0.5, -0.75
    chain = chain_task("skipping").chain
    rows = chain.rows(x)
    _, second, third = chain.split(rows)
    assert second[0, [0, 8]].tolist() == [0.75, 0.0]
    assert chain.reads == {2: [0]}
    y = chain.split(chain(rows))[2]
    assert y[0, 8] == 0.5
    assert y[0, 0] == 0.75  # | |0.75 - 0| - 0 |
    assert third[0, 12] == 0.75
    v = torch.zeros(1, 16)
    v[0, 8] = 1.0
    assert layer_jvp(chain.by(2, 0, chain.split(rows)), x, v)[1][0, 8] == -1
