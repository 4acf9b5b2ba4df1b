"""`faithfulness experiment readability` on transcoders of a tiny model."""

from pathlib import Path

import numpy as np
import pytest
import real_layers
import tiny_hub
from command_line import fails
from typer.testing import CliRunner

from faithfulness_plugin.benchmarks.readability import measure
from faithfulness_plugin.benchmarks.readability.config import ReadabilityConfig
from faithfulness_plugin.benchmarks.readability.experiment import Readability
from faithfulness_plugin.benchmarks.readability.schema import ReadabilityResult
from faithfulness_plugin.benchmarks.real_layers import experiment
from faithfulness_plugin.benchmarks.real_layers.config import RealLayersConfig
from faithfulness_plugin.cli.app import app
from faithfulness_plugin.results.experiment import complete, open_result, write_report
from faithfulness_plugin.results.settings_file import make_config
from faithfulness_plugin.transcoders.load import load_transcoder

pytestmark = pytest.mark.usefixtures("as_installed")
SMALL = {
    "tokens": 1500,
    "top": 4,
    "least_firings": 5,
    "words": 50,
    "examples": 1,
    "probe_f1": 0.3,
    "least_letters": 3,
    "least_words": 1,
}
ARMS = [
    {},
    {"skip": True},
    {"skip": True, "term": "jvp", "probe": "pair", "coefficient": 0.5},
    {"skip": True, "control": "constant map"},
    {"skip": True, "layer": "permuted"},
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    hub = tiny_hub.write_hub(folder)
    settings = {**real_layers.SMALL, "model": hub["model"], "text": hub["text"], "arms": ARMS, "seeds": 2}
    config = make_config(settings, "here", RealLayersConfig)
    out = folder / "result"
    complete(experiment.RealLayers(), config, out, options=experiment.RealLayersOptions(stores=str(folder / "stores")))
    return out


@pytest.fixture(scope="module")
def config(trained) -> ReadabilityConfig:
    return ReadabilityConfig(transcoders=str(trained), **SMALL)


@pytest.fixture(scope="module")
def result(config, tmp_path_factory) -> ReadabilityResult:
    return complete(Readability(), config, tmp_path_factory.mktemp("out"))


def test_every_transcoder_of_a_real_layer_is_measured(result, config):
    assert result.complete
    assert [(of.arm.name, of.seed) for of in result.measured] == [
        (name, seed) for seed in (0, 1) for name in ("no term", "skip", "skip, jvp pair 0.5")
    ]
    (layer,) = result.layers
    assert layer.rows == pytest.approx(config.tokens, rel=0.01)
    assert set(layer.probe_f1[8:]) == {None}  # the vocabulary's words begin with a to h
    for of in result.measured:
        assert of.n_rows == layer.rows
        assert (of.skip_carried is None) == (not of.arm.skip)
        for numbers in (of.fires, of.nearest, of.r2_token, of.r2_neighbours, of.coherence, of.energy):
            assert len(numbers) == 24
        for fires, r2 in zip(of.fires, of.r2_token, strict=True):
            assert r2 is None or (fires >= config.least_firings and r2 <= 1)


def test_pairs_are_matched_with_no_term_skip_and_another_seed(result):
    pairs = {(pair.arm.name, pair.reference.name, pair.seed, pair.reference_seed) for pair in result.matched}
    assert pairs == {
        pair
        for seed in (0, 1)
        for pair in [
            ("no term", "skip", seed, seed),
            ("no term", "no term", seed, 1 - seed),
            ("skip", "no term", seed, seed),
            ("skip", "skip", seed, 1 - seed),
            ("skip, jvp pair 0.5", "no term", seed, seed),
            ("skip, jvp pair 0.5", "skip", seed, seed),
        ]
    }
    for pair in result.matched:
        reference = next(of for of in result.measured if (of.arm, of.seed) == (pair.reference, pair.reference_seed))
        assert [cosine is not None for cosine in pair.cosine] == [fires > 0 for fires in reference.fires]


def test_rows_are_of_prompts_that_the_result_did_not_use(result, config, trained):
    """The firing counts, again from the model and the prompts, in the obvious way."""
    import torch

    from faithfulness_plugin.language_model.loaded import LoadedModel
    from faithfulness_plugin.results.schema import read_result

    of = read_result(trained / "result.json", experiment.RealLayersResult)
    source = LoadedModel(of.config, lambda _: None)
    n = -(-config.tokens // (of.config.context_size - 1))
    tokens = source.prompts(of.config.held_out_prompts + of.config.stored_prompts + n)[-n:]
    seen: list[torch.Tensor] = []
    source.hooks.visit(tokens, {source.mlps([1])[1].hook_in: lambda a: seen.append(a[tokens > 2])})
    first = result.measured[1]
    transcoder = load_transcoder(trained / "transcoders" / first.run.folder).eval()
    with torch.no_grad():
        acts = transcoder.encode(seen[0].float())
    np.testing.assert_array_equal((acts > 0).sum(0).numpy(), first.fires)
    energy = acts.double().square().mean(0) * transcoder.W_dec.double().square().sum(1)
    np.testing.assert_allclose(energy.detach().numpy(), first.energy, rtol=5e-3, atol=1e-12)
    with torch.no_grad():
        skip = transcoder(seen[0].float()) - acts @ transcoder.W_dec - transcoder.b_dec
    y = source.mlps([1])[1](seen[0]).double()
    skip, y = skip.double() - skip.double().mean(0), y - y.mean(0)
    assert first.arm.name == "skip"
    assert first.skip_carried == pytest.approx(((skip * y).sum() / (y * y).sum()).item(), abs=1e-4)


def test_it_resumes_transcoder_by_transcoder(config, result, tmp_path, monkeypatch):
    real, calls = measure.measured, []

    def stopped(*args):
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*args)

    with monkeypatch.context() as context:
        context.setattr(measure, "measured", stopped)
        with pytest.raises(KeyboardInterrupt):
            complete(Readability(), config, tmp_path)
    begun = open_result(Readability(), config, tmp_path, overwrite=False)
    assert (len(begun.measured), begun.complete) == (2, False)
    assert Readability().progress(begun) == (2, 18)
    assert Readability().tables(begun).split("\n\n")[1] == "PARTIAL."
    assert complete(Readability(), config, tmp_path).model_copy(update={"environment": None}) == result.model_copy(
        update={"environment": None}
    )


def test_the_page_says_what_and_which_arms_differ(result, tmp_path):
    written = write_report(Readability(), result, tmp_path)
    assert {path.name for path in written} == {"table.md", "readability.png"}
    page = (tmp_path / "table.md").read_text()
    first, what, differ, figure = page.split("\n\n")[:4]
    assert "(readability.png)" in figure
    assert first == "# Does matching cost readability?"
    assert what.startswith("Of each arm's features")
    assert differ.startswith("Against skip alone (block 1, topk k 4), ")
    assert "jvp pair 0.5" in differ
    for arm in ("no term", "skip", "skip, jvp pair 0.5"):
        assert page.count(f"\n| {arm} |") == 3
    assert "First letters of 50 words" in page


def test_layers_that_do_not_write_letters_are_said_and_not_measured(config, trained, tmp_path):
    strict = config.model_copy(update={"probe_f1": 1.0, "least_letters": 26})
    result = complete(Readability(), strict, tmp_path)
    assert all(of.letters is None for of in result.measured)
    page = Readability().tables(result)
    assert "too few: the layer hardly writes the first letter" in page


def call(transcoders, *arguments):
    return CliRunner().invoke(app, ["experiment", "readability", "--transcoders", str(transcoders), *arguments])


def test_folders_without_transcoders_are_refused(tmp_path):
    fails(call(tmp_path), 2, "result.json")
    made_up = real_layers.result_of([real_layers.arm_record(real_layers.Arm(skip=True, control="constant map"))])
    (tmp_path / "result.json").write_text(made_up.model_dump_json())
    fails(call(tmp_path, "--out", str(tmp_path / "out")), 2, "holds no transcoder with features of a real layer")


def test_too_little_text_is_refused_before_anything_is_measured(trained, tmp_path):
    fails(call(trained, "--out", str(tmp_path), "--tokens", "1000000", "--words", "50"), 2, "the text makes")


def test_transcoders_that_the_result_has_gained_are_added(trained, tmp_path):
    grows = tmp_path / "grows"
    grows.mkdir()
    (grows / "transcoders").mkdir()
    whole = (trained / "result.json").read_text()
    of = experiment.RealLayersResult.model_validate_json(whole)
    first = [run for run in of.trained if run.seed == 0]
    fewer = of.model_copy(update={"trained": first, "complete": False})
    third = [run.model_copy(update={"seed": 2}) for run in first]  # the first seed's, under another number
    more = of.model_copy(update={"trained": [*of.trained, *third], "config": of.config.model_copy(update={"seeds": 3})})
    for seed, runs in enumerate([first, [run for run in of.trained if run.seed == 1], third]):
        for run in runs:
            stored = run.run._replace(seed=seed % 2).folder
            (grows / "transcoders" / run.run.folder).symlink_to(trained / "transcoders" / stored)
    options = [part for name, value in SMALL.items() for part in (f"--{name.replace('_', '-')}", str(value))]
    # the second seed's next is the first one, until there is a third
    for text, transcoders, pairs in ((fewer.model_dump_json(), 3, 4), (whole, 6, 12), (more.model_dump_json(), 9, 18)):
        (grows / "result.json").write_text(text)
        done = call(grows, "--out", str(tmp_path / "out"), *options)
        assert done.exit_code == 0, done.output
        assert "Against skip alone" in done.stdout
        result = ReadabilityResult.model_validate_json((tmp_path / "out" / "result.json").read_text())
        assert (len(result.measured), len(result.matched), result.complete) == (transcoders, pairs, True)
