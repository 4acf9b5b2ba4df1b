"""The feature files of circuit-tracer's front end, read as it reads them."""

import gzip
import json
import struct
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import inspected
import numpy as np
import pytest
from pydantic import BaseModel, ConfigDict

from faithfulness_plugin.adapters.circuit_tracer.feature_files import read_features, read_index
from faithfulness_plugin.errors import FormatError, UsageError
from faithfulness_plugin.inspection.exports.circuit_tracer import write_circuit_tracer_features

pytestmark = pytest.mark.usefixtures("as_installed")


class Strict(BaseModel):
    """circuit_tracer/frontend/feature_models.py at 0.5.0."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Example(Strict):
    tokens_acts_list: list[float]
    train_token_ind: int
    is_repeated_datapoint: bool
    tokens: list[str]


class Quantile(Strict):
    quantile_name: str
    examples: list[Example]


class Feature(Strict):
    transcoder_id: str
    index: int
    examples_quantiles: list[Quantile]
    top_logits: list[str]
    bottom_logits: list[str]
    act_min: float
    act_max: float
    quantile_values: list[float]
    histogram: list[float]
    activation_frequency: float


def fetched(folder: Path, layer: int, feature: int) -> Feature:
    """What loadFeatureFromBinary and getFile make of a feature."""
    of = json.loads(gzip.decompress((folder / "index.json.gz").read_bytes()))[str(layer)]
    start, end = of["offsets"][feature : feature + 2]
    part = (folder / of["filename"]).read_bytes()[start : end + 1]  # a range includes its end
    (length,) = struct.unpack("<I", part[:4])
    return Feature.model_validate_json(gzip.decompress(part[4 : 4 + length]))


def write(of: Any, folder: Path, *layers: int, name: str = "set", model: str = "tiny", **options) -> Path:
    options = {"name": name, "model_name": model, "token_text": inspected.token_text, **options}
    inspections: dict[int, Any] = dict.fromkeys(layers, of)
    return write_circuit_tracer_features(inspections, folder, **options)


def test_every_feature_is_found_and_says_what_the_records_say(tmp_path):
    of: Any = inspected.text()
    folder = write(of, tmp_path / "features", 0, 3)
    assert {path.name for path in folder.iterdir()} == {"index.json.gz", "layer_0.bin", "layer_3.bin"}
    for layer in (0, 3):
        for n in range(of.records.d_sae):
            found = fetched(folder, layer, n)
            assert (found.transcoder_id, found.index) == (f"set/{layer}", n)
            assert found.act_max == pytest.approx(of.records.max_activation[n], rel=1e-3)
            assert found.activation_frequency == of.records.firing_rate[n]
            assert sum(found.histogram) == of.details.histogram[n].sum()
            assert len(found.quantile_values) == 100
            assert found.quantile_values[-1] == found.act_max
            assert found.examples_quantiles[0].quantile_name == "Top activations"
            assert found.examples_quantiles[1].quantile_name.endswith("% of activations")
            (top, *_) = found.examples_quantiles[0].examples
            assert top.tokens_acts_list[top.train_token_ind] == found.act_max
            assert set(top.tokens) <= set(inspected.HOSTILE)
            assert found.top_logits == [inspected.token_text(t) for t in of.tokens.raised.tokens[n].tolist()]
            assert found.bottom_logits == [inspected.token_text(t) for t in of.tokens.lowered.tokens[n].tolist()]
    each = zip(range(60), read_features(folder, [(3, n) for n in range(60)]), strict=True)
    assert all(Feature.model_validate_json(found) == fetched(folder, 3, n) for n, found in each)


def test_a_feature_that_never_fires_is_there_too(tmp_path):
    of: Any = inspected.text(dead=7)
    found = fetched(write(of, tmp_path, 0), 0, 7)
    assert (found.act_max, found.examples_quantiles, found.quantile_values) == (0, [], [])


def test_what_features_do_to_tokens_is_written_where_it_is_known(tmp_path):
    of, tokens = inspected.text(), np.arange(240).reshape(60, 4) % 7
    raised, lowered = (SimpleNamespace(tokens=t, values=np.ones((60, 4))) for t in (tokens, tokens[:, ::-1]))
    for known in (SimpleNamespace(raised=raised, lowered=lowered), SimpleNamespace(raised=None, lowered=None)):
        object.__setattr__(of, "tokens", known)
        found = fetched(write(of, tmp_path, 1, overwrite=True), 1, 2)
        assert found.bottom_logits == found.top_logits[::-1]
        assert found.top_logits == ([inspected.token_text(t) for t in tokens[2].tolist()] if known.raised else [])


def test_layers_join_their_own_set(tmp_path):
    of: Any = inspected.text()
    folder = write(of, tmp_path / "features", 2)
    before = (folder / "layer_2.bin").read_bytes()
    write(of, folder, 10)
    assert list(read_index(folder)) == ["2", "10"]
    assert (folder / "layer_2.bin").read_bytes() == before
    assert fetched(folder, 2, 5) == fetched(folder, 10, 5).model_copy(update={"transcoder_id": "set/2"})
    with pytest.raises(UsageError, match=r"holds features of layer 10 of set of tiny already: choose another folder"):
        write(of, folder, 10)
    write(of, folder, 10, overwrite=True)
    assert list(read_index(folder)) == ["2", "10"]


def test_another_set_and_other_files_are_refused(tmp_path):
    of: Any = inspected.text()
    folder = write(of, tmp_path / "features", 0)
    for names in ({"name": "other"}, {"model": "other"}):
        with pytest.raises(UsageError, match=r"is not empty: it holds circuit-tracer's feature files of set of tiny;"):
            write(of, folder, 1, **names)
    write(of, folder, 1, name="other", overwrite=True)
    assert list(read_index(folder)) == ["1"]
    assert not (folder / "layer_0.bin").exists()
    (folder / "config.yaml").touch()
    with pytest.raises(UsageError, match=r"it holds config.yaml, which is none of circuit-tracer's feature files"):
        write(of, folder, 1, name="other", overwrite=True)


def test_files_that_are_none_are_named(tmp_path):
    (tmp_path / "index.json.gz").write_bytes(b"nothing")
    with pytest.raises(FormatError, match=r"index.json.gz cannot be read"):
        read_index(tmp_path)
    with pytest.raises(UsageError, match=r"it holds index.json.gz, which is none of"):
        write(inspected.text(), tmp_path, 0, overwrite=True)
    (tmp_path / "index.json.gz").write_bytes(gzip.compress(b"[1]"))
    with pytest.raises(FormatError, match=r"is no index of feature files"):
        read_index(tmp_path)


def test_rows_without_text_are_refused_and_leave_nothing(tmp_path):
    (of,) = inspected.toy()
    with pytest.raises(UsageError, match="circuit-tracer explains features on text, and these rows are of none"):
        write(of, tmp_path / "features", 0)
    assert not list(tmp_path.iterdir())
