"""Objects say in a line what they are, and results are tables in notebooks."""

import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from oracles import exact_abs_transcoder, plant_datapoint_feature

from faithfulness_plugin import (
    AbsInputs,
    AbsNetwork,
    JacobianMatching,
    StandardTrainingTranscoder,
    StandardTrainingTranscoderConfig,
    metrics,
    train_transcoder,
)
from faithfulness_plugin.display import ROWS, NotebookTable, short
from faithfulness_plugin.inspection import active_features, inspect_transcoder, intervene, row_sample
from faithfulness_plugin.jacobian.linear_region import known_region
from faithfulness_plugin.language_model.text import Prompts
from faithfulness_plugin.layers.any_model import hooks_of
from faithfulness_plugin.results.tables import Table
from faithfulness_plugin.store import DerivativeStore, StoredRows
from faithfulness_plugin.transcoders.formats.registry import FORMATS

D = 8


@pytest.fixture(scope="module")
def inspection():
    transcoder = exact_abs_transcoder(D, 20)
    plant_datapoint_feature(transcoder, AbsInputs(D).point.double(), 17)
    transcoder.to(dtype=torch.float32)
    layer = AbsNetwork(D)
    sample = row_sample(layer, next(AbsInputs(D, density=0.3, repeat_frac=0.1, batch_size=512)))
    return inspect_transcoder(transcoder, layer, sample, name="<mine>", circuits=layer.circuits(), kinks=True)


@pytest.fixture(scope="module")
def trained():
    transcoder = StandardTrainingTranscoder(StandardTrainingTranscoderConfig(d_in=D, d_sae=12))
    return train_transcoder(transcoder, AbsNetwork(D), AbsInputs(D), n_steps=30, log_every=1, progress=False)


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    products = [{"estimator": "jvp", "probe": "rademacher"}]
    store = DerivativeStore.create(
        tmp_path_factory.mktemp("store"), source={}, d_in=D, d_out=D, products=products, n_shards=2
    )
    with store.writing():
        for number in range(2):
            store.fill_shard(number, torch.randn(10, D), torch.abs)
    return StoredRows(store, products[0], batch_size=4)


def test_every_object_says_in_a_short_line_what_it_is(inspection, trained, stored):
    layer, x, point = AbsNetwork(D), inspection.sample.x[:64], AbsInputs(D).point
    transcoder = inspection.transcoder
    region = known_region(transcoder, x)
    objects = [
        *(inspection, inspection.records, inspection.records.datapoint, inspection.details, inspection.details.along),
        *(inspection.overview, inspection.overview.examples, inspection.overview.projection, inspection.sample),
        *(trained, stored, stored.store, stored.store.index, stored.layer, AbsInputs(D), AbsInputs(D).draw()),
        *active_features(transcoder, x[0]),
        intervene(transcoder, x, 0, layer=layer),
        JacobianMatching(estimator="secant", probe="pair"),
        JacobianMatching(probe=lambda x, n, generator: x[None]),
        JacobianMatching().targets(layer, x),
        *(region, region.active(), region.weights),
        metrics.memorization(transcoder, point, layer=layer),
        metrics.jacobian_error(transcoder, layer, x),
        metrics.circuit_projection(transcoder, x, layer.circuits()),
        *(layer.circuits()[0], hooks_of(layer), Table(["a"], [["b"]] * 99, "caption"), *FORMATS),
        Prompts([], SimpleNamespace(bos_token_id=0), 10, 0),
    ]
    for of in objects:
        said = repr(of)
        assert said.startswith(type(of).__name__ + "("), said
        assert len(said) < 500, said
        assert " at 0x" not in said
        assert "\n" not in said


def test_what_the_lines_say(inspection, trained, stored, tmp_path):
    assert repr(JacobianMatching()) == "JacobianMatching(estimator='jvp', probe='pair')"
    assert "estimator='secant', probe='pair', radius=0.25" in repr(
        JacobianMatching(estimator="secant", probe="pair", radius=0.25)
    )
    assert repr(AbsInputs(D, 0.5)).startswith("AbsInputs(d_in=8, density=0.5, repeat_frac=0.0")
    assert f"loss={float(f'{trained.loss:.4g}')}" in repr(trained)
    assert trained.loss == trained.history[-1]["loss"]
    assert "d_sae=20" in repr(inspection.records)
    assert "flagged=1" in repr(inspection.records)
    assert "shards='2 of 2', rows=20" in repr(stored.store)
    assert "product='jvp rademacher', batch_size=4, batch=0" in repr(stored)


def test_short_values():
    assert short(np.zeros((3, 4), "float32")) == "float32[3, 4]"
    assert short(torch.zeros(2, dtype=torch.float64)) == "float64[2]"
    assert short(0.123456) == "0.1235"
    assert short(1.0) == "1.0"
    assert short(np.float64(1e-7 / 3)) == "3.333e-08"
    assert short(list(range(1000))) == "[0, 1, 2, 3, 4, 5, ...]"
    assert short(torch.nn.Linear(2, 2)) == "Linear"


def test_results_are_tables_in_notebooks(inspection, trained):
    layer, x = AbsNetwork(D), inspection.sample.x[:64]
    found = metrics.jacobian_error(inspection.transcoder, layer, x)
    effect = intervene(inspection.transcoder, x, 0, layer=layer)
    for of in (inspection, inspection.records, trained, found, effect, Table(["a"], [["b"]], "c")):
        assert isinstance(of, NotebookTable)
        shown, table = of._repr_html_(), of.to_frame()
        assert len(re.findall("<tr", shown)) == 1 + min(ROWS, len(table))
        assert re.findall("<th>(.*?)</th>", shown) == list(table.columns)
    assert trained.to_frame()["step"].iloc[0] == 30
    assert "10 more rows" in trained._repr_html_()
    assert "<mine>" not in inspection._repr_html_()  # a name is text, and no markup
    assert inspection.records.to_frame()["feature"].iloc[0] == 17


def test_a_metric_of_ones_own_reads_as_well():
    from dataclasses import dataclass

    @dataclass(frozen=True)
    class Largest(metrics.MetricResult):
        error: float

    assert repr(Largest(1 / 3)) == "Largest(error=0.3333)"
