import inspected
import numpy as np
import pytest
import torch
from oracles import exact_abs_transcoder

from faithfulness_plugin import AbsInputs, AbsNetwork
from faithfulness_plugin.inspection import firing_together as module
from faithfulness_plugin.inspection.activations import read_sample
from faithfulness_plugin.inspection.firing_together import firing_together
from faithfulness_plugin.inspection.sample import build_sample, row_sample


@pytest.fixture(scope="module")
def random():
    """A random transcoder of 60 features, of which 0 and 1 are near-duplicates, on rows without copies."""
    of = inspected.text(n_prompts=40)
    x = torch.randn(800, 80)
    return of.transcoder, build_sample(x, x)


def by_correlation(transcoder, x):
    """The phi coefficient as a correlation of ones and zeros."""
    fires = (transcoder.encode(x) > 0).double().detach().numpy()
    with np.errstate(invalid="ignore", divide="ignore"):
        phi = np.nan_to_num(np.corrcoef(fires.T))
    return fires, phi


@pytest.mark.parametrize("memory", [2.0, 1e-5])
def test_phi_is_the_correlation_of_being_active_and_the_largest_are_listed(random, memory):
    transcoder, sample = random
    sample = build_sample(sample.x, sample.y, memory=memory)
    found = firing_together(read_sample(transcoder, sample).activations, sample, most=4)
    fires, phi = by_correlation(transcoder, sample.x)
    assert found.features[0, 0] == 1
    assert found.features[1, 0] == 0
    assert found.phi[0, 0] > 0.8
    np.testing.assert_allclose(found.rates, fires.mean(0))
    assert found.n_rows == 800
    listed = 0
    for i in range(60):
        others = [j for j in np.argsort(-phi[i], kind="stable") if j != i]
        n = int((found.features[i] >= 0).sum())
        assert found.features[i, :n].tolist() == others[:n]
        np.testing.assert_allclose(found.phi[i, :n], phi[i, others[:n]], atol=1e-9)
        share = [(fires[:, i] * fires[:, j]).sum() / fires[:, i].sum() for j in others[:n]]
        np.testing.assert_allclose(found.share[i, :n], share)
        listed += n
    assert listed < 60  # two random features fire together as chance has it


def test_features_that_are_never_active_together_are_none_and_copies_count_once():
    inputs = AbsInputs(16, density=0.1, repeat_frac=0.5, batch_size=3000, seed=1)
    layer, transcoder = AbsNetwork(16).double(), exact_abs_transcoder(16, 40).eval()
    sample = row_sample(layer, next(inputs).double())
    found = firing_together(read_sample(transcoder, sample).activations, sample)
    # the point of which half of the rows are copies has three features active, which fire by themselves elsewhere
    assert (found.features[:3] == -1).all()
    assert found.n_rows < 1800
    assert (found.features[33:] == -1).all()  # dead


def test_few_common_rows_are_no_evidence(monkeypatch):
    transcoder = exact_abs_transcoder(4, 8).eval()
    x = torch.cat([torch.zeros(400, 2), 40 * torch.rand(400, 2)], dim=1).double()
    x[:7, :2] = torch.tensor([1.0, 2.0]).double()  # both fire on these rows, and nowhere else
    assert found_pair(transcoder, build_sample(x, x.abs())) == [1, 0]
    x[4:7, :2] = 0.0
    assert found_pair(transcoder, build_sample(x, x.abs())) == [-1, -1]
    monkeypatch.setattr(module, "LEAST", 4)
    assert found_pair(transcoder, build_sample(x, x.abs())) == [1, 0]


def found_pair(transcoder, sample):
    return firing_together(read_sample(transcoder, sample).activations, sample).features[:2, 0].tolist()
