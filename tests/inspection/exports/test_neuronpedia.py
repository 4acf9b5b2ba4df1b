"""Neuronpedia's files, against a schema written from its public source."""

import gzip
import json
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import inspected
import numpy as np
import pytest
import torch
from pydantic import BaseModel, ConfigDict, model_validator

from faithfulness_plugin.errors import UsageError
from faithfulness_plugin.inspection.exports.neuronpedia import SourceId, nearest_decoders, write_neuronpedia

pytestmark = pytest.mark.usefixtures("as_installed")
SOURCE = SourceId("tiny", 3, "mine")


class Table(BaseModel):
    """A table of apps/webapp/prisma/schema.prisma: columns without a default have to be there, others may be."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Model(Table):
    id: str
    displayNameShort: str = ""
    displayName: str = ""
    creatorId: str
    layers: int
    neuronsPerLayer: int
    owner: str


class SourceSet(Table):
    modelId: str
    name: str
    description: str
    creatorName: str
    creatorId: str
    urls: list[str] = []


class Source(Table):
    id: str
    modelId: str
    setName: str
    creatorId: str
    num_prompts: int | None = None
    num_tokens_in_prompt: int | None = None
    dataset: str | None = None


class Neuron(Table):
    modelId: str
    layer: str
    index: str
    creatorId: str | None = None
    maxActApprox: float | None = 0
    topkCosSimIndices: list[int] = []
    topkCosSimValues: list[float] = []
    neg_str: list[str] = []
    neg_values: list[float] = []
    pos_str: list[str] = []
    pos_values: list[float] = []
    frac_nonzero: float = 0
    freq_hist_data_bar_heights: list[float] = []
    freq_hist_data_bar_values: list[float] = []

    @model_validator(mode="after")
    def _pairs(self) -> "Neuron":
        for one, other in (
            (self.topkCosSimIndices, self.topkCosSimValues),
            (self.neg_str, self.neg_values),
            (self.pos_str, self.pos_values),
            (self.freq_hist_data_bar_heights, self.freq_hist_data_bar_values),
        ):
            assert len(one) == len(other)
        return self


class Activation(Table):
    id: str
    tokens: list[str]
    index: str
    layer: str
    modelId: str
    maxValue: float
    maxValueTokenIndex: int
    minValue: float
    values: list[float]
    creatorId: str
    binMin: float | None = None
    binMax: float | None = None
    binContains: float | None = None
    qualifyingTokenIndex: int | None = None


T = TypeVar("T", bound=Table)


def lines(text: str, table: type[T]) -> list[T]:
    assert len({tuple(json.loads(line)) for line in text.splitlines()}) == 1  # columns are read from the first line
    return [table.model_validate_json(line) for line in text.splitlines()]


def batches(folder: Path, table: type[T]) -> list[T]:
    names = [f"batch-{n}.jsonl.gz" for n in range(len(list(folder.iterdir())))]
    return [of for name in names for of in lines(gzip.decompress((folder / name).read_bytes()).decode(), table)]


def read(folder: Path) -> tuple[list[Neuron], dict[str, list[Activation]]]:
    """All features, and the activations of each."""
    (model,) = lines((folder / "model.jsonl").read_text(), Model)
    (source_set,) = lines((folder / "sourceset.jsonl").read_text(), SourceSet)
    (source,) = lines((folder / "source.jsonl").read_text(), Source)
    assert {source_set.modelId, source.modelId} == {model.id}
    assert source.setName == source_set.name
    assert folder.parts[-2:] == (model.id, source.id)
    neurons, activations = batches(folder / "features", Neuron), batches(folder / "activations", Activation)
    of: dict[str, list[Activation]] = defaultdict(list)
    for line in (*neurons, *activations):
        assert (line.modelId, line.layer) == (model.id, source.id)
    for line in activations:
        of[line.index].append(line)
    assert len({line.id for line in activations}) == len(activations)
    assert set(of) <= {line.index for line in neurons}
    return neurons, of


def test_features_and_examples_fit_the_schema_and_the_records(tmp_path, monkeypatch):
    monkeypatch.setattr("faithfulness_plugin.inspection.exports.neuronpedia.BATCH", 25)  # 60 features: 3 files
    of: Any = inspected.text(dead=7)
    written = write_neuronpedia(of, tmp_path, SOURCE, token_text=inspected.token_text, text_name="a text")
    assert written == tmp_path / "tiny" / "3-mine"
    assert len(list((written / "features").iterdir())) == 3
    neurons, activations = read(written)
    assert [neuron.index for neuron in neurons] == [str(n) for n in range(60)]
    for n, neuron in enumerate(neurons):
        assert neuron.maxActApprox == pytest.approx(of.records.max_activation[n], rel=1e-3)
        assert neuron.frac_nonzero == of.records.firing_rate[n]
        assert (sum(neuron.freq_hist_data_bar_heights) > 0) == (n != 7)
        assert neuron.pos_str == [inspected.token_text(token) for token in of.tokens.raised.tokens[n].tolist()]
        assert neuron.neg_str == [inspected.token_text(token) for token in of.tokens.lowered.tokens[n].tolist()]
        for example in activations[neuron.index]:
            assert len(example.tokens) == len(example.values)
            assert example.values[example.maxValueTokenIndex] == example.maxValue == max(example.values)
            assert example.minValue == min(example.values)
            assert example.values[example.qualifyingTokenIndex or 0] > 0
        top = [a for a in activations[neuron.index] if a.binMin == -1]
        assert len(top) == (of.records.top_rows[n] >= 0).sum()
    assert not activations["7"]
    assert neurons[7].freq_hist_data_bar_values == []
    bars = neurons[0].freq_hist_data_bar_values
    np.testing.assert_allclose(np.diff(bars), of.records.max_activation[0] / len(bars), rtol=0.02)


def test_what_features_do_to_tokens_is_written_where_it_is_known(tmp_path):
    of: Any = inspected.text()
    tokens, values = np.arange(240).reshape(60, 4) % 7, np.linspace(1, 2, 240).reshape(60, 4)
    raised, lowered = (SimpleNamespace(tokens=t, values=v) for t, v in ((tokens, values), (tokens[:, ::-1], -values)))
    object.__setattr__(of, "tokens", SimpleNamespace(raised=raised, lowered=lowered))
    neurons, _ = read(write_neuronpedia(of, tmp_path, SOURCE, token_text=inspected.token_text))
    assert neurons[2].pos_str == [inspected.token_text(token) for token in tokens[2].tolist()]
    assert neurons[2].neg_str == neurons[2].pos_str[::-1]
    assert neurons[2].pos_values == pytest.approx(values[2], rel=1e-3)
    assert neurons[2].neg_values == pytest.approx(-values[2], rel=1e-3)


def test_neighbours_are_those_of_a_plain_loop():
    W_dec = torch.randn(30, 6)
    features, cosines = nearest_decoders(W_dec, 4)
    for i in range(30):
        of_others = [(float(torch.cosine_similarity(W_dec[i], W_dec[j], dim=0)), j) for j in range(30) if j != i]
        best = sorted(of_others, reverse=True)[:4]
        assert features[i].tolist() == [j for _, j in best]
        assert cosines[i] == pytest.approx([c for c, _ in best], abs=1e-5)
    assert nearest_decoders(W_dec[:1])[0].shape == (1, 0)


def test_the_same_features_are_the_same_files(tmp_path):
    files = []
    for folder in ("a", "b"):
        written = write_neuronpedia(inspected.text(), tmp_path / folder, SOURCE)
        files.append({path.relative_to(written): path.read_bytes() for path in written.rglob("*") if path.is_file()})
    assert files[0] == files[1]


def test_other_files_and_another_set_are_refused(tmp_path):
    of: Any = inspected.text()
    here = write_neuronpedia(of, tmp_path, SOURCE)
    write_neuronpedia(of, tmp_path, SOURCE._replace(layer=4))  # beside it
    with pytest.raises(UsageError, match=r"is not empty: it holds Neuronpedia's files of 3-mine of tiny; choose"):
        write_neuronpedia(of, tmp_path, SOURCE)
    write_neuronpedia(of, tmp_path, SOURCE, overwrite=True)
    (here / "features" / "notes.txt").touch()
    with pytest.raises(UsageError, match=r"it holds features/notes.txt, which is none of Neuronpedia's files"):
        write_neuronpedia(of, tmp_path, SOURCE, overwrite=True)


def test_names_are_those_that_neuronpedia_allows(tmp_path):
    of: Any = inspected.text()
    assert SourceId.of(of, "some/Model-1.5B", 2) == ("model-1-5b", 2, "i-hostile-i")
    assert SourceId.of(of, "", 2).model == "model"
    of: Any = inspected.text(neuronpedia="gpt2-small/8-res-jb")
    assert SourceId.of(of, "some/model", 2) == ("gpt2-small", 8, "res-jb")
    for source in (SOURCE._replace(model="../a"), SOURCE._replace(source_set="")):
        with pytest.raises(UsageError, match="is no id on Neuronpedia: pass one of letters"):
            write_neuronpedia(of, tmp_path, source)
    assert not list(tmp_path.iterdir())
