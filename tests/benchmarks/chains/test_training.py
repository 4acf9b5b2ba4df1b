"""Members that are trained at once are those that the training class trains alone."""

from copy import deepcopy
from dataclasses import replace

import pytest
import torch

from faithfulness_plugin import train_transcoder
from faithfulness_plugin.benchmarks.chains.methods import BATCH_SIZE, METHODS
from faithfulness_plugin.benchmarks.chains.tasks import chain_task
from faithfulness_plugin.benchmarks.chains.training import train_members
from faithfulness_plugin.benchmarks.note.trainer.rows import RowInputs
from faithfulness_plugin.transcoders.seeded import made_with_seed


@pytest.mark.parametrize("task", ["two_hops", "skipping"])
@pytest.mark.parametrize("name", ["per_layer-none", "clt_tied-none", "clt-direct", "clt-total"])
def test_one_member_is_what_train_transcoder_trains(task, name):
    chain, method = chain_task(task), replace(METHODS[name], n_steps=20, strengths=(0.05,))
    (ours,) = train_members(chain, method, [7])
    config = method.config(chain.d, len(chain.chain), strength=0.05, seed=7)
    inputs = RowInputs(chain.source, BATCH_SIZE, 7)
    start = made_with_seed(deepcopy(config), 7)
    alone = train_transcoder(deepcopy(start), chain.chain, inputs, progress=False, **method.schedule).transcoder
    for parameter, before, other in zip(ours.parameters(), start.parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(parameter, other, rtol=1e-3, atol=1e-5)
        assert not parameter.requires_grad or (before != parameter).any() or not before.any()


def test_members_without_a_term_do_not_depend_on_each_other():
    chain, method = chain_task("two_hops"), replace(METHODS["clt-none"], n_steps=20, strengths=(0.05, 0.2))
    several = train_members(chain, method, [7, 8])
    (alone,) = train_members(chain, replace(method, strengths=(0.2,)), [8])
    for one, other in zip(several[-1].parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
    assert (several[0].parts[0].W_enc != several[2].parts[0].W_enc).any()


@pytest.mark.parametrize("term", ["augmentation", "augmentation_chain"])
def test_augmentation_trains_on_other_rows_too(term):
    chain = chain_task("two_hops")
    plain, augmented = (
        train_members(chain, replace(METHODS[f"clt-{of}"], n_steps=20, strengths=(0.05,)), [7])[0]
        for of in ("none", term)
    )
    assert (plain.parts[0].W_enc != augmented.parts[0].W_enc).any()
