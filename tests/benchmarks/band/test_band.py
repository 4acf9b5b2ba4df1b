"""`faithfulness experiment band` on a tiny model of two blocks."""

from pathlib import Path
from typing import Any

import pytest
import tiny_hub
from pydantic import ValidationError

from faithfulness_plugin import CrossLayerTrainingTranscoder
from faithfulness_plugin.attribution.agreement import FIELDS
from faithfulness_plugin.benchmarks.band import bench as band_bench
from faithfulness_plugin.benchmarks.band.config import BandConfig, BandRun
from faithfulness_plugin.benchmarks.band.experiment import Band, crossing, fvu, hops
from faithfulness_plugin.benchmarks.band.schema import BandResult
from faithfulness_plugin.benchmarks.band.truth_table import truth_table
from faithfulness_plugin.benchmarks.experiments import EXPERIMENTS
from faithfulness_plugin.benchmarks.whole_model.truth_of import sums_by_prompt
from faithfulness_plugin.results.experiment import Running, complete
from faithfulness_plugin.results.schema import Interval, read_result
from faithfulness_plugin.results.settings_file import make_config, read_settings

SMALL: dict[str, Any] = {
    "blocks": [0, 1],
    "d_sae": 24,
    "k": 4,
    "n_seeds": 1,
    "stored_prompts": 12,
    "tokens": 640,
    "batch_size": 32,
    "context_size": 16,
    "prompts_per_pass": 4,
    "held_out_prompts": 6,
    "truth_prompts": 3,
    "truth_tokens": 8,
    "targets": 12,
}


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> BandConfig:
    written = tiny_hub.write_hub(tmp_path_factory.mktemp("hub"))
    settings = {**SMALL, "model": {**written["model"], "dtype": "float32"}, "text": written["text"]}
    return make_config(settings, "here", BandConfig)


@pytest.fixture(scope="module")
def out(config, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("out")
    complete(Band(), config, folder)
    return folder


@pytest.fixture(scope="module")
def result(out) -> BandResult:
    return read_result(out / "result.json", BandResult)


@pytest.mark.parametrize("name", EXPERIMENTS["band"].preset_names)
def test_presets_are_settings(name):
    path = EXPERIMENTS["band"].preset_path(name)
    make_config(read_settings(path), str(path), BandConfig)


def test_every_arm_has_the_same_l0_and_parameters_and_is_measured(result, config):
    assert result.complete
    assert [(of.arm, of.seed) for of in result.records] == [(run.arm, run.seed) for run in config.runs()]
    first = result.records[0]
    for of in result.records:
        assert 7.5 < of.l0 <= 8
        assert of.parameters == pytest.approx(first.parameters, rel=0.02)
        assert 0 < fvu(of) < 1.5
        assert len(of.error) == len(of.own) == 2
        assert sum(of.kl) > 0
    by_arm = {of.arm: of for of in result.records}
    assert hops(by_arm["per_layer-none"]) == 1
    assert crossing(by_arm["per_layer-none"]) == 0
    assert 0 < hops(by_arm["clt-none"]) < 1
    assert crossing(by_arm["clt-direct"]) < crossing(by_arm["clt-none"])
    assert Band().tables(result).count("clt-direct") == 2  # what was trained, and the truth test


def test_effects_are_predicted_and_measured_for_every_arm(result, config):
    for of in result.records:
        assert {part.kind for part in of.truth} == {"remove", "double", "remove token's features", "input"}
        # two blocks: features of the second respond to the first's, and logits to both
        assert {(part.on, part.distance) for part in of.truth if part.kind == "remove token's features"} <= {
            ("features", 1),
            ("logits", 1),
            ("logits", 2),
        }
        sums = sums_by_prompt(of.truth, config.truth_prompts, {"remove", "double"}, "logits", None)
        assert (sums[FIELDS.index("n")] > 0).all()
        assert (sums[FIELDS.index("mm")] > 0).all()
    table = truth_table(result)
    sign = table.header.index("sign agreement")
    for row, of in zip(table.rows, result.records, strict=True):  # one seed: by hand
        parts = [
            dict(zip(FIELDS, sums, strict=True))
            for part in of.truth
            if part.kind != "input" and part.on == "features"
            for sums in part.sums
        ]
        expected = sum(part["same_sign"] for part in parts) / sum(part["signed"] for part in parts)
        found = row[sign]
        assert isinstance(found, Interval)
        assert found.mean == pytest.approx(expected)
    assert table.header[-1] == "rank correlation, 1 or more blocks on"  # two blocks have no other distance


def test_an_interrupted_training_resumes_from_its_checkpoint_and_ends_the_same(result, config, tmp_path, monkeypatch):
    chosen = config.model_copy(update={"arms": ["clt-direct"]})
    whole = next(of for of in result.records if of.arm == "clt-direct")
    bench = band_bench.BandBench(chosen, lambda _: None)
    run = BandRun("clt-direct", config.seed)

    class Stop(Exception):
        pass

    steps: list[None] = []

    def stop(self: Any) -> None:
        steps.append(None)
        if len(steps) == 12:
            raise Stop

    with monkeypatch.context() as patched:
        patched.setattr(CrossLayerTrainingTranscoder, "prepare_step", stop)
        with pytest.raises(Stop):
            bench.trained(run, tmp_path / "checkpoint", resume=False)
    assert list((tmp_path / "checkpoint").iterdir())
    again = complete(Band(), chosen, _begun(chosen, tmp_path, tmp_path / "checkpoint"))
    assert again.records[0].error == whole.error


def _begun(config: BandConfig, folder: Path, checkpoint: Path) -> Path:
    """A folder as an interrupt leaves it."""
    band, place = Band(), folder / "begun"
    place.mkdir()
    begun, line = next(band.run(band.fresh(config), Running(place)))
    assert line == ""
    (place / "result.json").write_text(begun.model_dump_json())
    (place / "checkpoints").mkdir(exist_ok=True)
    checkpoint.rename(place / "checkpoints" / f"clt-direct_seed{config.seed}")
    return place


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"arms": ["clt-dirct"]}, "no arm 'clt-dirct': did you mean clt-direct"),
        ({"blocks": [3]}, "a band has two blocks or more"),
        ({"k": 600}, "k=600: choose at most d_sae=512"),
        ({"truth_tokens": 200}, "truth_tokens: prompts have 128 tokens"),
    ],
)
def test_bad_settings_are_refused(wrong, why):
    with pytest.raises(ValidationError, match=why):
        BandConfig(**wrong)
