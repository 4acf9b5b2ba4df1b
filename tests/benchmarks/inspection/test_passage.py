from pathlib import Path

import pytest
import real_layers
import tiny_hub
from command_line import fails
from typer.testing import CliRunner

from faithfulness_plugin.benchmarks.inspection import passage
from faithfulness_plugin.benchmarks.inspection.cost import InspectionCost, inspection_cost
from faithfulness_plugin.benchmarks.inspection.passage import (
    Passage,
    PassageConfig,
    PassageScores,
    trained_transcoders,
)
from faithfulness_plugin.benchmarks.real_layers import experiment
from faithfulness_plugin.benchmarks.real_layers.config import RealLayersConfig
from faithfulness_plugin.cli.app import app
from faithfulness_plugin.results.experiment import complete, open_result
from faithfulness_plugin.results.settings_file import make_config

pytestmark = pytest.mark.usefixtures("as_installed")
COST = InspectionCost(
    d_sae=24, tokens=300, threads=1, seconds=9, memory=2, peak=1.5, page_megabytes=6, load=0.5, table=0.25, sort=None
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A few transcoders of a tiny model, one of them with a passage of four words again and again."""
    folder = tmp_path_factory.mktemp("trained")
    hub = tiny_hub.write_hub(folder)
    settings = {
        **real_layers.SMALL,
        "model": hub["model"],
        "text": hub["text"],
        "arms": [{"term": "none"}],
        "passage": {"text": "ba ce fi go", "share": 0.3, "blocks": [1], "arms": [{"term": "none"}]},
    }
    config = make_config(settings, "here", RealLayersConfig)
    out = folder / "result"
    options = experiment.RealLayersOptions(stores=str(folder / "stores"))
    complete(experiment.RealLayers(), config, out, options=options, note=print)
    return out


@pytest.fixture
def config(trained) -> PassageConfig:
    return PassageConfig(transcoders=str(trained), tokens=1500, share=0.2, cost_tokens=1000)


def test_the_passage_is_its_share_of_the_rows_and_its_rows_are_copies(config):
    of = Passage(trained_transcoders(config.transcoders), config, lambda _: None)
    sample, here = of.subject.sample, of.at_passage
    assert here.float().mean().item() == pytest.approx(0.2, abs=0.01)
    assert len(set(sample.groups[here].tolist())) == 4  # its words
    assert sample.origins is not None
    first = sample.origins.tokens[-1, :6].tolist()
    assert first[0] == first[5] == 0
    assert of.subject.token_text is not None
    assert [of.subject.token_text(t) for t in first[1:5]] == ["ba", "ce", "fi", "go"]


def test_each_transcoder_is_scored_once_and_an_interrupted_run_is_resumed(config, tmp_path, monkeypatch):
    monkeypatch.setattr(passage, "inspection_cost", lambda *_: COST)
    score, seen = Passage.score, []

    def stopped(self, transcoder, of):
        seen.append(of)
        if len(seen) == 2:
            raise KeyboardInterrupt
        return score(self, transcoder, of)

    with monkeypatch.context() as context:
        context.setattr(Passage, "score", stopped)
        with pytest.raises(KeyboardInterrupt):
            complete(PassageScores(), config, tmp_path)
    begun = open_result(PassageScores(), config, tmp_path, overwrite=False)
    assert (PassageScores().progress(begun), begun.complete, begun.measured) == ((2, 3), False, COST)
    result = complete(PassageScores(), config, tmp_path)
    assert result.complete
    assert [of.repeated for of in result.scored] == [False, True]
    for of in result.scored:
        assert 0 <= of.own <= of.live <= 24
        assert (of.auc is None) == (of.own == 0 or of.own == of.live)
        assert (of.auc_unfaithful is None) == (of.auc_unbacked is None) == (of.auc is None)
    tables = PassageScores().tables(result)
    assert "| passage repeated, no term |" in tables
    assert "| not repeated, no term |" in tables
    assert "| sorting | — |" in tables
    assert "| the whole command | 9 s |" in tables
    again = call(config.transcoders, "--out", str(tmp_path), "--tokens", "1500", "--cost-tokens", "1000")
    fails(again, 2, "holds a result with other settings")  # its share is another


@pytest.mark.slow
def test_what_looking_costs_is_measured_on_the_command_itself(config):
    trained = trained_transcoders(config.transcoders)
    folder = Path(config.transcoders) / experiment.TRANSCODERS / trained.trained[0].run.folder
    of = inspection_cost(folder, trained.config, config.cost_tokens, config.memory)
    assert (of.d_sae, of.tokens) == (24, 1000)
    assert 0 < of.page_megabytes < 15
    assert of.peak > 0.1


def call(transcoders, *arguments):
    return CliRunner().invoke(app, ["experiment", "inspection-passage", "--transcoders", str(transcoders), *arguments])


def test_results_without_a_repeated_passage_are_refused(tmp_path):
    fails(call(tmp_path), 2, "result.json")
    made_up = real_layers.result_of([real_layers.arm_record(real_layers.Arm())])
    (tmp_path / "result.json").write_text(made_up.model_dump_json())
    fails(
        call(tmp_path, "--out", str(tmp_path / "out")),
        2,
        "holds no transcoder that was trained with a repeated passage",
    )
