"""A class of one's own that joined by `linear_region.register` is inspected as one of SAELens's with its weights is."""

import numpy as np
import pytest
import tiny_models
import torch
from oracles import random_transcoder
from torch import nn

from faithfulness_plugin import metrics
from faithfulness_plugin.inspection import active_features, feature_records, inspect_transcoder, intervene, row_sample
from faithfulness_plugin.inspection.export import write_records
from faithfulness_plugin.inspection.hooked_transcoder import HookedTranscoder, hooked
from faithfulness_plugin.inspection.page import page_html
from faithfulness_plugin.jacobian.linear_region import DenseRegion, Weights, linear_region, region_of_activations
from faithfulness_plugin.layers.any_model import mlp_layer
from faithfulness_plugin.toy.relu_network import ReluNetwork

D = 5


class Own(nn.Module):
    """With names of its own, and no hooks."""

    def __init__(self, of) -> None:
        super().__init__()
        self.reader, self.writer = nn.Linear(D, 12), nn.Linear(12, D)
        self.reader.weight, self.writer.weight = nn.Parameter(of.W_enc.T), nn.Parameter(of.W_dec.T)
        self.reader.bias, self.writer.bias, self.beside = of.b_enc, of.b_dec, of.W_skip

    def forward(self, x):
        return self.writer(torch.relu(self.reader(x))) + x @ self.beside.T


@linear_region.register
def _region(transcoder: Own, x, *, gate=None, gate_bandwidth=None):
    weights = Weights(transcoder.reader.weight.T, transcoder.writer.weight.T, transcoder.writer.bias, transcoder.beside)
    if gate is not None:
        return region_of_activations(gate, x, weights, gate_bandwidth)
    return DenseRegion(x, weights, torch.relu(transcoder.reader(x)))


@pytest.fixture
def pair():
    theirs = random_transcoder("standard", skip=True, d_in=D, d_out=D).eval()
    return theirs, Own(theirs)


@pytest.fixture
def layer():
    weights = torch.randn(D, 9, dtype=torch.float64)
    return ReluNetwork(weights, weights.T.contiguous())


def test_records_page_and_tables_are_the_same(pair, layer, tmp_path):
    sample = row_sample(layer, torch.randn(60, D, dtype=torch.float64))
    theirs, own = (inspect_transcoder(t, layer, sample, name="mine") for t in pair)
    for name in ("firing_rate", "carried", "jacobian_share", "masking", "top_rows"):
        np.testing.assert_allclose(getattr(own.records, name), getattr(theirs.records, name), atol=1e-9, err_msg=name)
    assert own.records.fvu == pytest.approx(theirs.records.fvu)
    assert own.overview.jacobian.relative_error == pytest.approx(theirs.overview.jacobian.relative_error)
    np.testing.assert_allclose(own.details.along.gain, theirs.details.along.gain, atol=1e-6)
    assert "<html" in page_html([own])
    write_records([own], tmp_path / "records.jsonl")
    assert "HookedTranscoder(module=Own, W_enc=float64[5, 12]" in repr(own.transcoder)


def test_active_features_and_interventions_are_the_same(pair, layer):
    x = torch.randn(60, D, dtype=torch.float64)
    first, same = (active_features(t, x[0]) for t in pair)
    assert [f.index for f in first] == [f.index for f in same]
    for through in ("reading", "writing"):
        theirs, own = (intervene(t, x, first[0].index, layer=layer, through=through) for t in pair)
        assert own.faithfulness == pytest.approx(theirs.faithfulness)
        assert own.cosine == pytest.approx(theirs.cosine)


def test_in_a_language_model_too():
    model = tiny_models.hooked("LN")
    layer, d = mlp_layer(model, 0), tiny_models.D_MODEL
    theirs = random_transcoder("standard", skip=True, d_in=d, d_out=d).eval()
    tokens = tiny_models.tokens()
    results = [intervene(t, tokens, 3, layer=layer, model=model, do="steer", value=1.0) for t in (theirs, Own(theirs))]
    assert results[0].faithfulness == pytest.approx(results[1].faithfulness)
    with pytest.raises(ValueError, match="metadata do not say which layer it replaces: pass layer="):
        intervene(Own(theirs), tokens, 3, model=model, do="steer", value=1.0)


def test_metrics_take_what_has_been_given_hooks(pair, layer):
    x = torch.randn(60, D, dtype=torch.float64)
    theirs, own = (metrics.reconstruction(t, layer, x) for t in (pair[0], hooked(pair[1], x)))
    assert own.fvu == pytest.approx(theirs.fvu)
    assert own.l0 == theirs.l0


def test_what_has_hooks_stays_as_it_is_and_what_is_not_known_is_named(pair, layer):
    x = torch.randn(4, D, dtype=torch.float64)
    assert hooked(pair[0], x) is pair[0]
    assert isinstance(hooked(pair[1], x), HookedTranscoder)
    with pytest.raises(ValueError, match="the features of Linear are not known: register its linear region"):
        feature_records(nn.Linear(D, D).double(), row_sample(layer, x))
