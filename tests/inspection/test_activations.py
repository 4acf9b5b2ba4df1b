"""Activations without zeros, against those that the transcoder gives."""

import numpy as np
import pytest
import torch

from faithfulness_plugin.inspection import activations
from faithfulness_plugin.inspection.activations import read_sample, row_numbers
from faithfulness_plugin.inspection.sample import row_sample
from faithfulness_plugin.metrics import reconstruction

pytestmark = pytest.mark.usefixtures("as_installed")


def test_they_are_the_transcoders_whatever_the_parts(make_transcoder, mlp):
    transcoder, x = make_transcoder("topk").eval(), torch.randn(90, 5, dtype=torch.float64)
    expected = transcoder.encode(x).detach()
    for memory in (2.0, 2e-5):
        seen: list[int] = []
        acts = read_sample(transcoder, row_sample(mlp, x, memory=memory), seen.append).activations
        assert sum(seen) == 90
        assert (len(seen) > 1) == (memory < 1)
        whole = np.zeros((90, acts.d_sae))
        for part in acts.parts(memory):
            some = acts.part(part)
            whole[row_numbers(some, part.start), some.indices] = some.data
        np.testing.assert_allclose(whole, expected, rtol=1e-12)  # parts of other sizes round differently
        rows = torch.tensor([7, 3, 3, 89, 0])
        active = acts.active_at(rows)
        gates = torch.zeros(5, acts.d_sae)
        gates[active.rows, active.features] = 1
        assert ((gates > 0) == (expected[rows] > 0)).all()


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("most_active", [0.0, 1.0])
def test_the_output_is_the_transcoders_from_active_features_or_by_its_decoder(
    make_transcoder, mlp, monkeypatch, skip, most_active
):
    monkeypatch.setattr(activations, "MOST_ACTIVE", most_active)
    transcoder, x = make_transcoder("topk", skip=skip).eval(), torch.randn(90, 5, dtype=torch.float64)
    sample = row_sample(mlp, x)
    found = read_sample(transcoder, sample).squared_error / (sample.variance * 90)
    assert found == pytest.approx(reconstruction(transcoder, mlp, x).fvu)


def test_a_hook_on_the_output_shows(make_transcoder, mlp, monkeypatch):
    monkeypatch.setattr(activations, "MOST_ACTIVE", 1.0)
    transcoder, x = make_transcoder("topk").eval(), torch.randn(40, 5, dtype=torch.float64)
    sample = row_sample(mlp, x)
    before = read_sample(transcoder, sample).squared_error
    transcoder.add_hook("hook_sae_recons", lambda tensor, hook: tensor + 1)
    assert read_sample(transcoder, sample).squared_error == pytest.approx(
        (transcoder(x) - sample.y).square().sum().item()
    )
    assert read_sample(transcoder, sample).squared_error != pytest.approx(before)


def test_none_is_active(make_transcoder, mlp):
    transcoder = make_transcoder().eval()
    with torch.no_grad():
        transcoder.b_enc.fill_(-1e3)
    acts = read_sample(transcoder, row_sample(mlp, torch.randn(40, 5, dtype=torch.float64))).activations
    assert len(acts.values) == 0
    assert [acts.part(part).nnz for part in acts.parts(1.0)] == [0]
    assert len(acts.active_at(torch.tensor([3, 4])).features) == 0
