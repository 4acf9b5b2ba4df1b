"""The second phase against its definition: what it lowers, and what it keeps."""

from copy import deepcopy

import pytest
import torch

from faithfulness_plugin.benchmarks.whole_model import second_phase as module
from faithfulness_plugin.benchmarks.whole_model.analysis import FVU, KL
from faithfulness_plugin.benchmarks.whole_model.bench import Bench
from faithfulness_plugin.benchmarks.whole_model.experiment import TRANSCODERS
from faithfulness_plugin.benchmarks.whole_model.training import _reopened
from faithfulness_plugin.metrics.next_token import kl_divergence
from faithfulness_plugin.results.experiment import Running
from faithfulness_plugin.transcoders.load import load_transcoder

pytestmark = pytest.mark.usefixtures("as_installed")


@pytest.fixture(scope="module")
def run(config):
    return next(run for run in config.runs() if run.arm.then == "KL and loss")


@pytest.fixture(scope="module")
def bench(config, stores, tmp_path_factory) -> Bench:
    return Bench(config, stores, Running(tmp_path_factory.mktemp("unused")))


def test_a_reopened_transcoder_is_the_saved_function(run, bench, out):
    saved = out / TRANSCODERS / run.before.folder
    with bench.as_it_is(run) as model, torch.no_grad():
        x = model.rows_of(1)[0]
        reopened = _reopened(run, 1, model, saved).eval()
    torch.testing.assert_close(reopened(x), load_transcoder(saved / "block1").eval()(x))


def test_kl_is_that_of_the_model_from_the_model_with_all_layers_replaced(run, bench, out):
    saved = {b: load_transcoder(out / TRANSCODERS / run.before.folder / f"block{b}").eval() for b in (0, 1)}
    tokens = bench.prompts.held_out[:3]
    with bench.as_it_is(run) as model:
        found = module._kl(saved, model, tokens)
        replaced = model.replacement(saved).run(tokens).logits
        expected = kl_divergence(model.hooks.run(tokens, {}), replaced)[:, :-1].mean()
    torch.testing.assert_close(found, expected)
    assert found.requires_grad


def test_its_gradient_is_the_difference_quotient(run, bench, out):
    with bench.as_it_is(run) as model:
        transcoders = {b: _reopened(run, b, model, out / TRANSCODERS / run.before.folder).eval() for b in (0, 1)}
        tokens = bench.prompts.held_out[:2]
        bias = transcoders[0].b_dec
        (gradient,) = torch.autograd.grad(module._kl(transcoders, model, tokens), [bias])
        along, eps = gradient / gradient.norm(), 2e-3  # small: TopK jumps where another feature takes a place
        moved = []
        for sign in (1, -1):
            with torch.no_grad():
                bias.add_(sign * eps * along)
                moved.append(module._kl(transcoders, model, tokens))
                bias.sub_(sign * eps * along)
    torch.testing.assert_close((moved[0] - moved[1]) / (2 * eps), gradient @ along, rtol=0.05, atol=0)


def test_both_phases_lower_kl_and_the_loss_beside_it_keeps_the_layers(result):
    before = next(of for of in result.sets if of.arm.then is None and of.arm.arm.skip and of.arm.arm.term == "jvp")
    numbers = {}
    for of in result.sets:
        if of.arm.arm == before.arm.arm and of.arm.control is None:
            alone = result.model_copy(update={"sets": [of]})
            numbers[of.arm.then] = [number.mean(alone, of.arm) for number in (KL, FVU)]
    kl, fvu = ({then: of[i].mean for then, of in numbers.items()} for i in (0, 1))
    assert kl["KL"] < kl[None]
    assert kl["KL and loss"] < kl[None]
    assert fvu["KL and loss"] < fvu["KL"]


def test_the_model_itself_is_not_trained(run, bench, out):
    before = deepcopy(bench.source.model.state_dict())
    with bench.as_it_is(run) as model:
        transcoders = {b: _reopened(run, b, model, out / TRANSCODERS / run.before.folder) for b in (0, 1)}
        module.second_phase(transcoders, model, run)
    for name, value in bench.source.model.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)
    assert not any(of.training for of in transcoders.values())
