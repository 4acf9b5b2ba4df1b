import math
from pathlib import Path
from typing import Any

import pytest
import tiny_hub
import torch
from sae_lens import SAE
from safetensors.torch import load_file
from transformers import AutoTokenizer

from faithfulness_plugin.language_model.config import TrainConfig, TrainConfigError
from faithfulness_plugin.language_model.model import load_model
from faithfulness_plugin.language_model.report import tables
from faithfulness_plugin.language_model.result import Speed, StepCost, TrainResult
from faithfulness_plugin.language_model.text import load_prompts
from faithfulness_plugin.language_model.train import TRANSCODERS, Training
from faithfulness_plugin.results.experiment import complete, open_result
from faithfulness_plugin.results.schema import ResultError, read_result
from faithfulness_plugin.results.settings_file import make_config

pytestmark = pytest.mark.usefixtures("as_installed")


@pytest.fixture(scope="module")
def hub(tmp_path_factory) -> dict[str, Any]:
    return tiny_hub.write_hub(tmp_path_factory.mktemp("hub"))


def configured(settings: dict[str, Any]) -> TrainConfig:
    return make_config(settings, "here", TrainConfig)


def train(config: TrainConfig, out: Path, **how: Any) -> TrainResult:
    return complete(Training(), config, out, **how)


def weights(out: Path) -> dict[str, dict[str, torch.Tensor]]:
    return {path.parent.name: load_file(path) for path in sorted(out.glob(f"{TRANSCODERS}/*/sae_weights.safetensors"))}


def same(one: Path, other: Path) -> bool:
    ours, theirs = weights(one), weights(other)
    assert ours
    assert ours.keys() == theirs.keys()
    return all(torch.equal(ours[name][w], theirs[name][w]) for name in ours for w in ours[name])


def test_the_fvu_is_that_of_the_files_on_the_prompts_that_were_held_out(hub, tmp_path):
    config = configured({**hub, "coefficients": [0.5]})
    (trained,) = train(config, tmp_path).transcoders
    assert (trained.hook_in, trained.hook_out) == ("blocks.1.mlp.hook_in", "blocks.1.mlp.hook_out")
    model = load_model(config.model, "cpu")
    rows = [row["tokens"] for row in load_prompts(config, model.tokenizer)][: config.held_out_prompts]
    _, cache = model.run_with_cache(torch.tensor(rows))
    kept = torch.tensor(rows) > 1  # neither beginning nor end of text
    x, y = cache[trained.hook_in][kept], cache[trained.hook_out][kept]
    transcoder = SAE.load_from_disk(str(tmp_path / TRANSCODERS / trained.name))
    with torch.no_grad():
        left = (transcoder(x) - y).square().sum() / (y - y.mean(0)).square().sum()
    assert trained.evaluations[-1].fvu == pytest.approx(left.item(), rel=1e-4)
    assert trained.evaluations[-1].fvu < trained.evaluations[0].fvu


@pytest.mark.parametrize(
    ("architecture", "transcoder"),
    [
        ("standard", {"d_sae": 24, "sparsity_coefficient": 0.01}),
        ("batch_topk", {"d_sae": 24, "k": 4}),
        ("jumprelu", {"d_sae": 24, "l0_coefficient": 0.01}),
        ("topk", {"d_sae": 24, "k": 4, "skip": True}),
    ],
)
def test_every_architecture_learns_at_several_blocks(hub, tmp_path, architecture, transcoder):
    changed = {"blocks": [0, 1], "architecture": architecture, "transcoder": transcoder, "tokens": 2560, "lr": 1e-2}
    result = train(configured({**hub, **changed}), tmp_path)
    assert [(t.block, t.coefficient) for t in result.transcoders] == [(0, 0), (0, 0.5), (1, 0), (1, 0.5)]
    x = torch.randn(9, tiny_hub.D_MODEL)
    functions = []
    for trained in result.transcoders:
        assert trained.evaluations[-1].fvu < 0.9 * trained.evaluations[0].fvu
        functions.append(SAE.load_from_disk(str(tmp_path / TRANSCODERS / trained.name))(x))
    assert all(not torch.allclose(a, b) for i, a in enumerate(functions) for b in functions[:i])


def test_matching_lowers_the_jacobian_error(hub, tmp_path):
    changed = {"coefficients": [0, 10], "tokens": 5120, "lr": 1e-2}
    plain, matched = train(configured({**hub, **changed}), tmp_path).transcoders
    assert matched.evaluations[-1].jacobian_error_data < plain.evaluations[-1].jacobian_error_data
    first, other = (of.evaluations[0].model_dump(exclude={"name"}) for of in (matched, plain))
    assert first.keys() == other.keys()  # they begin alike
    for score, value in first.items():
        assert other[score] == (None if value is None else pytest.approx(value, rel=1e-5)), score


def test_evaluations_come_after_equal_parts(hub, tmp_path):
    result = train(configured({**hub, "evaluations": 3}), tmp_path)
    for trained in result.transcoders:
        assert [(e.step, e.tokens) for e in trained.evaluations] == [(0, 0), (4, 256), (8, 512), (10, 640)]


@pytest.mark.bitwise("the same steps on the same batches in one process round alike")
def test_a_seed_gives_the_same_transcoders_and_another_gives_others(hub, tmp_path):
    for name, seed in (("one", 0), ("same", 0), ("other", 1)):
        train(configured({**hub, "seed": seed}), tmp_path / name)
    assert same(tmp_path / "one", tmp_path / "same")
    assert not same(tmp_path / "one", tmp_path / "other")


@pytest.mark.bitwise("the same steps on the same batches in one process round alike")
def test_a_transcoder_does_not_depend_on_those_beside_it(hub, tmp_path):
    train(configured({**hub, "blocks": [0, 1]}), tmp_path / "many")
    train(configured({**hub, "blocks": [1], "coefficients": [0.5]}), tmp_path / "one")
    ours, theirs = weights(tmp_path / "one")["block1_coefficient0.5"], weights(tmp_path / "many")
    assert all(torch.equal(ours[name], theirs["block1_coefficient0.5"][name]) for name in ours)


@pytest.mark.bitwise("the same steps on the same batches in one process round alike")
def test_batches_that_are_made_ahead_are_the_same(hub, tmp_path):
    for prefetch in (0, 2):
        train(configured({**hub, "prefetch": prefetch}), tmp_path / str(prefetch))
    assert same(tmp_path / "0", tmp_path / "2")


def test_the_time_of_a_step_is_divided_up(hub, tmp_path):
    speed = train(configured(hub), tmp_path).speed
    assert speed is not None
    assert min(*speed.without.model_dump().values(), *speed.matched.model_dump().values()) > 0
    assert speed.without.model == speed.matched.model


def test_the_slow_down_is_of_the_whole_step():
    speed = Speed(
        rounds=1,
        threads=1,
        without=StepCost(model=5, layer=1, transcoder=4),
        matched=StepCost(model=5, layer=3, transcoder=17),
    )
    assert (speed.without.tokens_per_second, speed.matched.tokens_per_second) == (100_000, 40_000)
    assert speed.slow_down == 2.5


def test_without_the_term_there_is_nothing_to_time(hub, tmp_path):
    result = train(configured({**hub, "coefficients": [0]}), tmp_path)
    assert result.complete
    assert result.speed is None
    assert "slows" not in tables(result)


def test_a_complete_result_is_returned_as_it_is(hub, tmp_path):
    first = train(configured(hub), tmp_path)
    assert read_result(tmp_path / "result.json", TrainResult) == first
    notes: list[str] = []
    again = train(first.config, tmp_path, note=notes.append)
    assert (again, notes) == (first, [])
    with pytest.raises(ResultError, match=r"other settings \(lr 0.004, not 0.002\)"):
        open_result(Training(), configured({**hub, "lr": 2e-3}), tmp_path, False)


def test_a_layer_that_is_not_there_is_named(hub, tmp_path):
    with pytest.raises(TrainConfigError, match="blocks: there is no block 2: the model has blocks 0 to 1"):
        train(configured({**hub, "blocks": [0, 2]}), tmp_path)


@pytest.fixture
def exact(hub, tmp_path):
    """Settings with a text of so many prompts."""

    def settings(n_prompts: int, **text: Any) -> TrainConfig:
        path = tmp_path / "exact.txt"
        path.write_text(tiny_hub.document((tiny_hub.SMALL["context_size"] - 1) * n_prompts))
        return configured({**hub, "text": {"files": [str(path)], **text}})

    return settings


def test_a_text_that_is_as_long_as_is_asked_for_lasts(exact, tmp_path):
    n_prompts = 40
    while True:
        try:
            load_prompts(exact(n_prompts), AutoTokenizer.from_pretrained(exact(n_prompts).model.name))
            break
        except TrainConfigError:
            n_prompts += 1
    assert n_prompts > 40
    assert train(exact(n_prompts), tmp_path / "out").complete


def test_a_text_that_ends_with_the_training_lasts_for_the_timing(exact, tmp_path):
    assert train(exact(4 + 52), tmp_path / "out").complete


@pytest.mark.filterwarnings("ignore:All samples in the training dataset have been exhausted")
def test_a_text_that_may_be_repeated_lasts(exact, tmp_path):
    assert train(exact(4 + 9, repeat=True), tmp_path / "out").complete


def test_numbers_are_finite_and_means_over_seeds_are_shown(hub, tmp_path):
    result = train(configured({**hub, "seeds": 2}), tmp_path)
    assert [t.seed for t in result.transcoders] == [0, 1, 0, 1]
    numbers = [v for t in result.transcoders for v in t.evaluations[-1].model_dump().values() if isinstance(v, float)]
    assert all(map(math.isfinite, numbers))
    ours = [t.evaluations[-1].fvu for t in result.transcoders if t.coefficient == 0]
    assert ours[0] != ours[1]
    assert f"{sum(ours) / 2:.3f}" in tables(result)
