"""The numbers of sets, on tiny models in float64: against slow twins, and where all of them are known."""

from typing import Any

import pytest
import tiny_models
import torch
from torch import Tensor

from faithfulness_plugin import (
    StandardTrainingTranscoder,
    StandardTrainingTranscoderConfig,
    TopKTrainingTranscoder,
    TopKTrainingTranscoderConfig,
)
from faithfulness_plugin.language_model.replacement import ReplacementModel
from faithfulness_plugin.layers.any_model import hooks_of, mlp_layer
from faithfulness_plugin.measure.interventions import Interventions
from faithfulness_plugin.measure.sets.effects import dose_curves
from faithfulness_plugin.measure.sets.layers import beside_layers
from faithfulness_plugin.measure.sets.predictions import predictions, replaced_together
from faithfulness_plugin.metrics.downstream import effect
from faithfulness_plugin.metrics.next_token import cross_entropy, kl_divergence

D, D_MLP = tiny_models.D_MODEL, 32
MODELS: dict[str, Any] = {
    "bridge": lambda: tiny_models.bridge("llama"),
    "bridge, parallel": lambda: tiny_models.bridge("neox"),
    "hooked": tiny_models.hooked,
    "hugging face, parallel": lambda: tiny_models.hugging_face("neox"),
}


def tokens() -> Tensor:
    found = torch.randint(1, tiny_models.N_VOCAB, (5, 7), generator=torch.Generator().manual_seed(5))
    found[:, 0] = 0
    return found


def of_layers(model: Any, transcoders: dict[int, Any]) -> ReplacementModel:
    hooks = hooks_of(model)
    return ReplacementModel(hooks, {b: mlp_layer(hooks, b) for b in transcoders}, transcoders, torch.tensor([0]))


def transcoder(seed: int) -> Any:
    torch.manual_seed(seed)
    config = TopKTrainingTranscoderConfig(d_in=D, d_out=D, d_sae=24, k=4, skip=bool(seed), dtype="float64")
    made = TopKTrainingTranscoder(config).eval()
    with torch.no_grad():
        made.b_dec.normal_(std=0.3)
    return made


def exact(model: Any) -> ReplacementModel:
    """Transcoders that are their layers: ReLU MLPs, feature by neuron."""
    made: dict[int, Any] = {}
    for block in (0, 1):
        mlp = model.blocks[block].mlp
        config = StandardTrainingTranscoderConfig(d_in=D, d_out=D, d_sae=D_MLP, dtype="float64")
        made[block] = StandardTrainingTranscoder(config).eval()
        weights = {"W_enc": mlp.W_in, "b_enc": mlp.b_in, "W_dec": mlp.W_out, "b_dec": mlp.b_out}
        made[block].load_state_dict(weights)
    return of_layers(model, made)


@pytest.fixture(params=MODELS)
def model(request) -> ReplacementModel:
    return of_layers(MODELS[request.param](), {0: transcoder(0), 1: transcoder(1)})


@torch.no_grad()
def test_layers_have_the_fvu_and_l0_of_their_rows(model):
    kept = model.kept(tokens())
    found = beside_layers(model, tokens(), kept, batch_size=2)
    for block, layer in model.layers.items():
        carried = tiny_models.carried(model.hooks, [layer.hook_in, layer.hook_out], tokens())
        x, y = (carried[name][kept[block]] for name in (layer.hook_in, layer.hook_out))
        t = model.transcoders[block]
        numbers = found[block]
        fvu = sum(numbers["error"]) / sum(numbers["variance"])
        assert fvu == pytest.approx(((t(x) - y).square().sum() / (y - y.mean(0)).square().sum()).item(), rel=1e-5)
        assert numbers["l0"] == pytest.approx((t.encode(x) > 0).sum(-1).double().mean().item())
        assert numbers["dead_fraction"] == pytest.approx((~(t.encode(x) > 0).any(0)).double().mean().item())
        of_prompt = kept[block].nonzero()[:, 0]
        each = (y - y.mean(0)).square().sum(-1)
        right = [each[of_prompt == prompt].sum().item() for prompt in range(5)]
        assert numbers["variance"] == pytest.approx(right, rel=1e-5)


@torch.no_grad()
def test_predictions_are_those_of_the_replaced_model(model):
    clean, found = predictions(model, tokens(), model.kept(tokens()), batch_size=2)
    logits = model.hooks.run(tokens(), {})
    assert clean == pytest.approx(cross_entropy(logits, tokens()).sum(-1).tolist(), rel=1e-5)
    assert [(of.blocks, of.errors) for of in found] == [([0], False), ([1], False), ([0, 1], False), ([0, 1], True)]
    for of in found:
        changed = model.run(tokens(), of.blocks, errors=of.errors).logits
        assert of.ce == pytest.approx(cross_entropy(changed, tokens()).sum(-1).tolist(), rel=1e-5)
        assert of.kl == pytest.approx(kl_divergence(logits, changed)[:, :-1].sum(-1).tolist(), rel=1e-4, abs=1e-6)
        same = [sum(a == b for a, b in zip(one[:-1], other[:-1], strict=True)) for one, other in _best(logits, changed)]
        assert of.agreed == same
        assert (of.logits_error < 1e-4) == of.errors


def _best(*logits: Tensor):
    return list(zip(*(of.argmax(-1).tolist() for of in logits), strict=True))


@torch.no_grad()
def test_a_set_of_one_layer_has_the_effects_that_measure_finds_for_it():
    model = of_layers(tiny_models.bridge("llama"), {0: transcoder(0)})
    kept = model.kept(tokens())
    curves = dose_curves(model, tokens(), kept, 0, [1.0], seed=3)
    of = Interventions(model.hooks, model.layers[0], tokens(), kept[0], model.transcoders[0], seed=3)
    effects = of.effects(model.transcoders[0])
    for found in curves:
        if not found.errors:
            records = effects[found.change]
            assert [s.stage for s in found.stages] == [r.stage for r in records]
            for stage, record in zip(found.stages, records, strict=True):
                assert (stage.error[0], stage.cosine[0]) == pytest.approx((record.error, record.cosine), rel=1e-9)


@torch.no_grad()
def test_effects_of_every_dose_are_differences_of_whole_runs(model):
    doses, kept = [0.1, 1.0, 3.0], model.kept(tokens())
    curves = dose_curves(model, tokens(), kept, 0, doses, seed=1)
    assert [(c.change, c.errors) for c in curves] == [
        (kind, errors) for kind in ("input", "feature") for errors in (False, True)
    ]
    of = Interventions(model.hooks, model.layers[0], tokens(), kept[0], model.transcoders[0], seed=1)
    layer, at = model.layers[0], of.at
    x = tiny_models.carried(model.hooks, [layer.hook_in], tokens())[layer.hook_in]
    there = x[of.each, at]
    for curve in curves:
        if curve.change != "input":
            continue
        sites = model.sites(tokens(), errors=curve.errors)
        for place, dose in enumerate(doses):

            def moved(a: Tensor, dose: float = dose) -> Tensor:
                changed = a.clone()
                changed[of.each, at] = a[of.each, at] + dose * 0.5 * (a[of.each, at].roll(1, 0) - a[of.each, at])
                return changed

            seen = []
            for replaced in (False, True):
                for change in (None, moved):
                    hooks: dict[str, Any] = {}
                    for block, site in enumerate(sites):
                        of_input = change if block == 0 else None
                        hooks |= _by_hand(model, block, site, replaced, of_input)
                    carried: dict[str, Tensor] = {}
                    last = {s.stage: _keep(s.stage, carried) for s in curve.stages}
                    model.hooks.run(tokens(), hooks | last)
                    seen.append(carried)
            for stage in curve.stages:
                right = effect(*(of_run[stage.stage] for of_run in seen))
                assert stage.error[place] == pytest.approx(right.error, rel=1e-6)
                assert stage.cosine[place] == pytest.approx(right.cosine, rel=1e-6)
    assert there.shape == (5, D)


def _keep(name: str, carried: dict[str, Tensor]) -> Any:
    return lambda a: carried.update({name: a.clone()})


def _by_hand(model: ReplacementModel, block: int, site: Any, replaced: bool, of_input: Any) -> dict[str, Any]:
    """What `Site` does, spelled out."""
    inputs: list[Tensor] = []

    def read(x: Tensor) -> Tensor | None:
        inputs.append(x if of_input is None else of_input(x))
        return None if of_input is None else inputs[-1]

    def write(y: Tensor) -> Tensor | None:
        if not replaced:
            return None
        t = model.transcoders[block](inputs[-1]) + (0 if site.error is None else site.error)
        return torch.where((tokens() != 0)[..., None], t, y)

    return {site.layer.hook_in: read, site.layer.hook_out: write}


@torch.no_grad()
def test_transcoders_that_are_their_layers_change_nothing_and_answer_every_change():
    model = exact(tiny_models.native_bridge(act_fn="relu"))
    kept = model.kept(tokens())
    for numbers in beside_layers(model, tokens(), kept, 8).values():
        assert sum(numbers["error"]) == pytest.approx(0, abs=1e-9)
    clean, found = predictions(model, tokens(), kept, 8)
    for of in found:
        assert of.ce == pytest.approx(clean)
        assert of.kl == pytest.approx([0] * 5, abs=1e-6)
        assert of.agreed == [6] * 5
    for block in (0, 1):
        for curve in dose_curves(model, tokens(), kept, block, [0.1, 1.0, 3.0]):
            for stage in curve.stages:
                assert stage.error == pytest.approx([0] * 3, abs=1e-6)
                assert stage.cosine == pytest.approx([1] * 3, abs=1e-6)


@torch.no_grad()
def test_transcoders_without_features_answer_no_change_of_their_input():
    silent = {0: transcoder(0), 1: transcoder(1)}
    for of in silent.values():
        of.W_dec.zero_()
        if hasattr(of, "W_skip"):
            of.W_skip.zero_()
    model = of_layers(tiny_models.bridge("neox"), silent)  # parallel: the change reaches nothing but the MLP
    curves = dose_curves(model, tokens(), model.kept(tokens()), 0, [1.0])
    for curve in curves:
        if curve.change == "input":
            assert all(s.error == pytest.approx([1]) and s.cosine == pytest.approx([0]) for s in curve.stages)


def test_which_layers_are_replaced_together():
    assert replaced_together([3]) == [((3,), False), ((3,), True)]
    found = [of for of, errors in replaced_together(range(30)) if not errors]
    assert [len(of) for of in found] == [1] * 30 + [2, 4, 8, 16, 30]
    assert found[30] == (0, 29)
    assert all(len(set(of)) == len(of) and list(of) == sorted(of) for of in found)
