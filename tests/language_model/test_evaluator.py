from collections.abc import Mapping
from typing import Any, cast

import pytest
import torch
from oracles import ARCHITECTURES
from tiny_models import D_MODEL, N_VOCAB, hooked, native_bridge
from torch import Tensor, nn
from torch.nn import functional

from faithfulness_plugin.adapters.sae_lens import TranscoderEvaluator
from faithfulness_plugin.adapters.transformer_lens.hooks import TransformerLensHooks
from faithfulness_plugin.layers.any_model import mlp_layer
from faithfulness_plugin.layers.hooked_layer import HookedLayer
from faithfulness_plugin.metrics import jacobian_error, reconstruction
from faithfulness_plugin.store.left_out import LeftOut

MODELS = {"hooked": hooked, "bridge": native_bridge}


@pytest.fixture(params=MODELS)
def model(request) -> Any:
    return MODELS[request.param]()


def prompts(n: int = 5, length: int = 7) -> Tensor:
    return torch.randint(N_VOCAB, (n, length), generator=torch.Generator().manual_seed(3))


def evaluator(model: Any, layers: dict[str, HookedLayer], **options: Any) -> TranscoderEvaluator:
    return TranscoderEvaluator(TransformerLensHooks(model), layers, prompts(), **{"batch_size": 2, **options})


def student(make_transcoder: Any, architecture: str = "standard", **fields: Any) -> Any:
    return make_transcoder(architecture, d_in=D_MODEL, d_out=D_MODEL, d_sae=24, **fields)


class Same(nn.Module):
    """A transcoder that computes what its layer does, or a multiple of it."""

    def __init__(self, layer: HookedLayer, times: float = 1.0) -> None:
        super().__init__()
        self.layer, self.times, self.W_dec = layer, times, torch.eye(D_MODEL, dtype=torch.float64)

    def encode(self, x: Tensor) -> Tensor:
        return self.times * self.layer(x)

    def decode(self, acts: Tensor) -> Tensor:
        return acts

    def forward(self, x: Tensor) -> Tensor:
        return self.decode(self.encode(x))


def same(layer: HookedLayer, times: float = 1.0) -> Any:
    return Same(layer, times)


def kept_by_hand(tokens: Tensor, exclude: list[int], positions: range) -> Tensor:
    return torch.tensor([[i in positions and int(t) not in exclude for i, t in enumerate(prompt)] for prompt in tokens])


def patched(model: Any, layer: HookedLayer, function: Any, tokens: Tensor, kept: Tensor) -> Tensor:
    """Prompt by prompt, token by token."""
    logits = []
    for prompt, keep in zip(tokens, kept, strict=True):
        _, cache = model.run_with_cache(prompt[None])
        x, y = cache[layer.hook_in][0], cache[layer.hook_out][0].clone()
        for i in keep.nonzero().flatten():
            y[i] = function(x[i : i + 1])[0]

        def put_in(_: Tensor, hook: Any, y: Tensor = y) -> Tensor:
            return y[None]

        logits.append(model.run_with_hooks(prompt[None], fwd_hooks=[(layer.hook_out, put_in)])[0])
    return torch.stack(logits)


def cross_entropy(logits: Tensor, tokens: Tensor) -> float:
    return functional.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten()).item()


def assert_agree(ours: Mapping[str, float | None], theirs: Mapping[str, float | None]) -> None:
    """Up to rounding: the model is in single precision, and one entry is a difference of cross-entropies."""
    assert ours["ce_recovered"] == pytest.approx(theirs["ce_recovered"], abs=1e-3)
    others = {name: value for name, value in theirs.items() if name != "ce_recovered"}
    assert {name: ours[name] for name in others} == pytest.approx(others, rel=1e-5)


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@torch.no_grad()
def test_every_entry_by_hand(as_installed, make_transcoder, model, architecture, skip):
    layer, transcoder, tokens = mlp_layer(model, 1), student(make_transcoder, architecture, skip=skip), prompts()
    exclude = [int(tokens[0, 2]), int(tokens[3, 4])]
    kept = kept_by_hand(tokens, exclude, range(1, 6))
    assert 0 < kept.sum() < 5 * 5
    options: dict[str, Any] = {"exclude": torch.tensor(exclude), "positions": slice(1, 6), "jacobian_rows": 9}
    entries = evaluator(model, {"t": layer}, **options).evaluate({"t": transcoder})["t"]

    transcoder.eval()
    _, cache = model.run_with_cache(tokens)
    rows = torch.stack([cache[layer.hook_in][i, j] for i, j in kept.nonzero()])
    outputs = reconstruction(transcoder, layer, rows)
    for name in ("fvu", "l0", "dead_fraction"):
        assert entries[name] == pytest.approx(getattr(outputs, name))
    some = rows[torch.linspace(0, len(rows) - 1, 9).long()]
    jacobian = jacobian_error(transcoder, layer, some)
    assert entries["jacobian_error"] == pytest.approx(jacobian.relative_error)
    assert entries["jacobian_cosine"] == pytest.approx(jacobian.cosine)
    assert entries["jacobian_error_data"] == pytest.approx(jacobian.relative_error_data)
    assert entries["jacobian_cosine_data"] == pytest.approx(jacobian.cosine_data)

    clean, changed = model(tokens), patched(model, layer, transcoder, tokens, kept)
    zeroed = patched(model, layer, torch.zeros_like, tokens, kept)
    ce, zero, own = (cross_entropy(logits, tokens) for logits in (changed, zeroed, clean))
    kl = functional.kl_div(
        changed[:, :-1].log_softmax(-1), clean[:, :-1].log_softmax(-1), log_target=True, reduction="none"
    )
    assert abs(ce - own) > 1e-3
    assert entries["ce"] == pytest.approx(ce, rel=1e-5)
    assert entries["ce_clean"] == pytest.approx(own, rel=1e-5)
    assert entries["ce_zero"] == pytest.approx(zero, rel=1e-5)
    recovered = entries["ce_recovered"]  # undefined where zeros do better than the layer, as in some of these models
    assert recovered is None if zero < own else recovered == pytest.approx((zero - ce) / (zero - own), rel=1e-3)
    assert entries["kl"] == pytest.approx(kl.sum(-1).mean().item(), rel=1e-4)


@pytest.mark.parametrize("options", [{}, {"exclude": torch.arange(10)}, {"positions": slice(2, None)}])
def test_a_transcoder_that_is_the_layer_changes_nothing(model, options):
    layer = mlp_layer(model, 0)
    entries = evaluator(model, {"t": layer}, **options).evaluate({"t": same(layer)})["t"]
    assert entries["fvu"] == pytest.approx(0, abs=1e-20)
    assert entries["jacobian_error"] == pytest.approx(0, abs=1e-20)
    assert entries["jacobian_cosine"] == pytest.approx(1)
    assert entries["ce"] == pytest.approx(entries["ce_clean"], rel=1e-6)
    assert entries["kl"] == pytest.approx(0, abs=1e-6)
    helps = cast(float, entries["ce_zero"]) > cast(float, entries["ce_clean"])
    assert entries["ce_recovered"] == (pytest.approx(1, abs=1e-4) if helps else None)


def test_a_transcoder_that_writes_zeros_recovers_nothing(model):
    layer = mlp_layer(model, 0)
    entries = evaluator(model, {"t": layer}).evaluate({"t": same(layer, 0.0)})["t"]
    assert entries["ce"] == entries["ce_zero"] != entries["ce_clean"]
    helps = cast(float, entries["ce_zero"]) > cast(float, entries["ce_clean"])
    assert entries["ce_recovered"] == (0 if helps else None)
    assert entries["jacobian_error"] == pytest.approx(1)


def test_excluded_tokens_are_left_to_the_layer(model):
    layer = mlp_layer(model, 0)
    kept = [int(token) for token in prompts()[0, :2]]
    exclude = torch.tensor([token for token in range(N_VOCAB) if token not in kept])
    some = evaluator(model, {"t": layer}, exclude=exclude).evaluate({"t": same(layer, -2.0)})["t"]
    every = evaluator(model, {"t": layer}).evaluate({"t": same(layer, -2.0)})["t"]
    assert some["ce_clean"] == every["ce_clean"]
    assert some["kl"] is not None
    assert every["kl"] is not None
    assert 0 < some["kl"] < every["kl"]


def test_several_at_once_are_one_at_a_time(as_installed, make_transcoder, model):
    layers = {"a": mlp_layer(model, 0), "b": mlp_layer(model, 1), "c": mlp_layer(model, 1)}
    transcoders = {name: student(make_transcoder, kind) for name, kind in zip("abc", ARCHITECTURES, strict=False)}
    together = evaluator(model, layers).evaluate(transcoders)
    for name, transcoder in transcoders.items():
        assert_agree(together[name], evaluator(model, {name: layers[name]}).evaluate({name: transcoder})[name])
    assert len({entries["ce"] for entries in together.values()}) == 3
    (some,) = evaluator(model, layers).evaluate({"b": transcoders["b"]}).values()
    assert_agree(some, together["b"])


@pytest.mark.parametrize("batch_size", [1, 3, 50])
def test_the_batch_size_changes_nothing(as_installed, make_transcoder, model, batch_size):
    layers, transcoders = {"t": mlp_layer(model, 1)}, {"t": student(make_transcoder)}
    ours = evaluator(model, layers, batch_size=batch_size).evaluate(transcoders)["t"]
    theirs = evaluator(model, layers).evaluate(transcoders)["t"]
    assert_agree(ours, theirs)


def test_prompt_by_prompt_it_is_the_same_where_all_rows_are_taken(as_installed, make_transcoder, model):
    layers, transcoders = {"t": mlp_layer(model, 1)}, {"t": student(make_transcoder)}
    every = {"jacobian_rows": 50, "exclude": LeftOut(skip_first=1)}
    by_prompt = evaluator(model, layers, by_prompt=True, **every)
    assert_agree(by_prompt.evaluate(transcoders)["t"], evaluator(model, layers, **every).evaluate(transcoders)["t"])
    (at,) = by_prompt.at.values()
    assert at.rows.prompt.bincount().tolist() == [6] * 5
    assert by_prompt.for_jacobians("t").x.shape == at.rows.x.shape
    assert len(evaluator(model, layers, jacobian_rows=2, by_prompt=True).for_jacobians("t").x) == 2 * 5


def test_it_evaluates_anew_what_was_trained_meanwhile(as_installed, make_transcoder, model):
    layers, transcoder = {"t": mlp_layer(model, 1)}, student(make_transcoder)
    made = evaluator(model, layers)
    before = made.evaluate({"t": transcoder})["t"]
    with torch.no_grad():
        transcoder.W_dec.mul_(-1)
    after = made.evaluate({"t": transcoder})["t"]
    assert_agree(after, evaluator(model, layers).evaluate({"t": transcoder})["t"])
    assert after["ce"] != pytest.approx(before["ce"], rel=1e-4)
    assert after["ce_clean"] == pytest.approx(before["ce_clean"], rel=1e-6)


@pytest.mark.parametrize("training", [True, False])
def test_modes_and_gradients_are_as_before(as_installed, make_transcoder, model, training):
    transcoder = student(make_transcoder, "batch_topk").train(training)
    seen: list[bool] = []
    transcoder.hook_sae_acts_post.add_hook(lambda tensor, hook: seen.append(transcoder.training))
    evaluator(model, {"t": mlp_layer(model, 1)}).evaluate({"t": transcoder})
    assert seen
    assert not any(seen)
    assert transcoder.training == training
    assert torch.is_grad_enabled()
    assert all(weight.grad is None for weight in transcoder.parameters())


def test_the_mode_is_restored_after_an_error(as_installed, make_transcoder, model):
    transcoder = student(make_transcoder)

    def fail(tensor: Tensor, hook: Any) -> None:
        raise ArithmeticError

    transcoder.hook_sae_acts_post.add_hook(fail)
    with pytest.raises(ArithmeticError):
        evaluator(model, {"t": mlp_layer(model, 1)}).evaluate({"t": transcoder})
    assert transcoder.training


def test_no_hook_stays_on_the_model(as_installed, make_transcoder, model):
    before = model(prompts())
    evaluator(model, {"t": mlp_layer(model, 1)}).evaluate({"t": student(make_transcoder)})
    torch.testing.assert_close(model(prompts()), before)
    assert not any(point.fwd_hooks for point in model.hook_dict.values())


def test_it_is_an_evaluator_of_saelens(as_installed, make_transcoder, model):
    made, transcoder = evaluator(model, {"t": mlp_layer(model, 1)}), student(make_transcoder)
    assert_agree(made(transcoder, None, None), made.evaluate({"t": transcoder})["t"])


def test_a_lock_is_held_while_the_model_runs(as_installed, make_transcoder, model):
    class Lock:
        held = False

        def __enter__(self) -> None:
            self.held = True

        def __exit__(self, *_: object) -> None:
            self.held = False

    lock, seen = Lock(), []
    model.hook_dict["hook_embed" if "hook_embed" in model.hook_dict else "embed.hook_out"].add_hook(
        lambda tensor, hook: seen.append(lock.held), is_permanent=True
    )
    evaluator(model, {"t": mlp_layer(model, 1)}, lock=lock).evaluate({"t": student(make_transcoder)})
    assert seen.count(False) <= 4  # those of mlp_layer's own check
    assert seen.count(True) >= 9  # three batches: clean, zero, clean again, spliced
    assert not lock.held


@pytest.mark.parametrize("options", [{"exclude": torch.arange(N_VOCAB)}, {"positions": slice(3, 3)}])
def test_held_out_tokens_that_are_all_excluded(model, options):
    with pytest.raises(ValueError, match=r"every held-out token is excluded: hold out more prompts \(n_eval_batches\)"):
        evaluator(model, {"t": mlp_layer(model, 1)}, **options)


def test_where_zeros_cost_nothing_nothing_is_recovered(as_installed, make_transcoder):
    model = hooked()
    with torch.no_grad():
        model.W_U.zero_()
    entries = evaluator(model, {"t": mlp_layer(model, 1)}).evaluate({"t": student(make_transcoder)})["t"]
    assert entries["ce_recovered"] is None
    assert entries["ce"] == entries["ce_zero"] == entries["ce_clean"]


@torch.no_grad()
@pytest.mark.exact("masks: no norm is so near its limit that rounding decides")
def test_rows_of_extreme_norm_are_left_to_each_layer(model):
    layers, tokens = {f"{block}": mlp_layer(model, block) for block in (0, 1)}, prompts()
    found = evaluator(model, layers, exclude=LeftOut(skip_first=1, norms_above=1.02))
    _, cache = model.run_with_cache(tokens)
    for layer in layers.values():
        later = torch.ones_like(tokens, dtype=torch.bool)
        later[:, 0] = False
        usual = later.clone()
        for name in (layer.hook_in, layer.hook_out):
            norms = cache[name].norm(dim=-1)
            usual &= norms <= 1.02 * norms[later].median()
        of = found.at[layer.hook_in, layer.hook_out].kept
        assert torch.equal(of.mask.cpu(), usual)
        assert of.counts.norms == int((later & ~usual).sum()) > 0
    records = found.rows_records()
    assert [of.hook_in for of in records] == [layer.hook_in for layer in layers.values()]
    assert all(of.rows_for_half is not None and 0 < of.rows_for_half < 0.6 for of in records)
    entries = found.evaluate({name: same(layer) for name, layer in layers.items()})
    assert all(of["kl"] == pytest.approx(0, abs=1e-6) for of in entries.values())
