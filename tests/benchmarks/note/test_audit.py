import pytest
import torch

from faithfulness_plugin.benchmarks.note.audit.experiment import Audit
from faithfulness_plugin.benchmarks.note.audit.report import inside, table
from faithfulness_plugin.benchmarks.note.audit.schema import ARMS, PUBLISHED, AuditConfig
from faithfulness_plugin.benchmarks.note.audit.training import Model, compare_inert, jacobian_term, jvp_term, run
from faithfulness_plugin.jacobian.exact import transcoder_jacobian
from faithfulness_plugin.results.experiment import Running, complete, open_result, run_parts
from faithfulness_plugin.results.intervals import prediction_interval

SMALL = AuditConfig(
    d_in=5, d_hidden=9, n_steps=20, batch_size=16, n_train=256, n_validation=50, seeds=(0, 1), n_compared=8
)


def test_the_default_is_the_published_configuration():
    c = AuditConfig()
    assert (c.d_in, c.d_hidden, c.n_steps, c.batch_size) == (32, 48, 10_000, 256)
    assert (c.n_train, c.n_validation) == (20_000, 2_000)
    assert (c.lr, c.weight_decay, c.sparsity_coefficient, c.jacobian_coefficient) == (1e-3, 0.01, 1e-3, 1e-2)
    assert (c.repeat_frac, len(c.seeds)) == (0.10, 10)
    model = Model(32, 48)
    assert {name: list(p.shape) for name, p in model.named_parameters()} == {
        "encoder.weight": [48, 32],
        "encoder.bias": [48],
        "decoder.weight": [32, 48],
    }


def test_without_a_graph_the_term_has_the_value_and_no_gradient():
    model, x, v = Model(5, 9).double(), torch.randn(7, 5).double(), torch.randn(7, 5).double()
    inert, matched = (jacobian_term(model, x, v, create_graph=graph) for graph in (False, True))
    assert not inert.requires_grad
    J_t = transcoder_jacobian(model, x)
    expected = (torch.einsum("boi,bo->bi", J_t, v) - x.sign() * v).square().mean()
    torch.testing.assert_close(matched, expected)
    torch.testing.assert_close(inert, expected.detach())
    matched.backward()
    assert model.encoder.weight.grad is not None
    assert model.encoder.weight.grad.any()


def test_the_true_term_compares_jv():
    model, x, v = Model(5, 9).double(), torch.randn(7, 5).double(), torch.randn(7, 5).double()
    Jv = torch.func.jvp(model, (x,), (v,))[1]
    torch.testing.assert_close(jvp_term(model, x, v), (Jv - x.sign() * v).square().mean())
    jvp_term(model, x, v).backward()
    assert model.decoder.weight.grad is not None
    assert model.decoder.weight.grad.any()


@pytest.mark.bitwise("the same steps on the same batches in one process round alike")
def test_the_inert_term_changes_nothing_but_the_random_state():
    check = compare_inert(SMALL, 0)
    assert check.difference == 0.0
    assert check.difference_with_gradient > 0
    assert check.term > 0
    repetition, inert = run(SMALL, "repetition", 0), run(SMALL, "inert", 0)
    assert repetition.validation_loss != inert.validation_loss  # other batches: the probes came between


@pytest.mark.bitwise("the same steps on the same batches in one process round alike")
def test_resumed_it_is_the_same_result(tmp_path):
    audit, out = Audit(), tmp_path / "resumed"
    whole = complete(audit, SMALL, tmp_path / "whole")
    assert whole.complete
    assert audit.progress(whole) == (10, 10)
    parts = run_parts(audit, audit.fresh(SMALL), Running(out))
    for _ in range(4):
        next(parts)
    assert audit.progress(open_result(audit, SMALL, out, overwrite=False)) == (4, 10)
    assert complete(audit, SMALL, out) == whole


def test_the_table_holds_the_published_values_and_where_they_lie(tmp_path):
    result = complete(Audit(), SMALL, tmp_path)
    text = table(result)
    for arm, values in PUBLISHED.items():
        assert ARMS[arm] in text
        low, high = prediction_interval([r.validation_loss for r in result.runs if r.column == arm])
        assert inside(result)[arm, "validation_loss"] == (low <= values["validation_loss"] <= high)
    assert "published 0.02354" in text
