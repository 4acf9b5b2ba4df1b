from dataclasses import replace
from typing import Any

import nine_families
import pytest
import tiny_models
import torch
from fitted import fitted
from jaxtyping import Float
from torch import Tensor
from transformer_lens import HookedTransformer

from faithfulness_plugin.layers.any_model import hooks_of
from faithfulness_plugin.measure.candidate_hooks import hook_candidates

PROMPTS = torch.randint(50, (40, 16), generator=torch.Generator().manual_seed(1))
SOME = PROMPTS[:4]


def rows(model: Any, *names: str) -> list[Float[Tensor, "rows d"]]:
    """What a model carries at these tensors on all prompts."""
    seen = tiny_models.carried(model, names, PROMPTS)
    return [seen[name].flatten(0, 1) for name in names]


TRUE = ("blocks.1.mlp.hook_in", "blocks.1.hook_mlp_out")
WRONG = {
    "what it reads": ("blocks.1.hook_mlp_in", "blocks.1.hook_mlp_out"),
    "both": ("blocks.1.hook_resid_pre", "blocks.1.hook_resid_post"),
}


@pytest.mark.parametrize("kind", ["plain", "bridge"])
@pytest.mark.parametrize("family", nine_families.NINE)
def test_the_pair_that_a_transcoder_was_fitted_on_is_ranked_first(family, kind):
    model = getattr(nine_families, kind)(family)
    x, y = rows(model, *TRUE)
    found = hook_candidates(model, fitted(x, y, hook_name=TRUE[0], hook_name_out=TRUE[1], l0=40.0), SOME)
    assert found.best.compared, [(p.hook_in, p.hook_out, p.fvu) for p in found.pairs[:3]]
    assert found.best.fvu < 0.4
    assert found.declared_l0 == 40.0
    assert "The declared pair is the best one" in found.verdict()
    assert found.warning() is None
    for names in WRONG.values():
        found = hook_candidates(model, fitted(x, y, hook_name=names[0], hook_name_out=names[1]), SOME)
        best_in, best_out = (found.best.hook_in, found.best.hook_out)
        assert set(best_in) & {TRUE[0], *same_names(model, TRUE[0])}
        assert set(best_out) & {TRUE[1], *same_names(model, TRUE[1])}
        assert found.clearly_another
        assert f"--hook-in {best_in[0]} --hook-out {best_out[0]}" in found.verdict()
        assert found.warning() is not None


def same_names(model: Any, name: str) -> set[str]:
    return {hooks_of(model).own_name(name)}


@pytest.mark.parametrize(
    "make", [lambda: tiny_models.hooked(sae=True), tiny_models.hooked, lambda: tiny_models.hooked(gated_mlp=True)]
)
def test_on_a_hooked_transformer(make):
    model: HookedTransformer = make()
    x, y = rows(model, *TRUE)
    found = hook_candidates(model, fitted(x, y, hook_name=TRUE[0], hook_name_out=TRUE[1]), SOME)
    assert found.best.compared
    wrong = hook_candidates(model, fitted(x, y, hook_name="blocks.1.ln2.hook_normalized", hook_name_out=TRUE[1]), SOME)
    assert (wrong.best.hook_in, wrong.best.hook_out) == (found.best.hook_in, found.best.hook_out)
    assert wrong.best.fvu == pytest.approx(found.best.fvu, rel=1e-9)
    assert not wrong.best.compared


def test_each_pair_is_measured_by_its_formula_and_equal_tensors_are_one():
    model = nine_families.plain("gemma2")
    x, y = rows(model, "blocks.1.ln2.hook_normalized", "blocks.1.hook_mlp_out")
    transcoder = fitted(x, y, hook_name="blocks.1.ln2.hook_normalized", hook_name_out="blocks.1.hook_mlp_out")
    found = hook_candidates(model, transcoder, PROMPTS)
    assert found.best.compared
    names = [set(pair.hook_in) for pair in found.pairs]
    assert any({"blocks.1.ln2.hook_out", "blocks.1.mlp.hook_in", "model.layers.1.mlp.input"} <= n for n in names)
    tensors = {same[0] for pair in found.pairs for same in (pair.hook_in, pair.hook_out)}
    carried = {name: a.flatten(0, 1) for name, a in tiny_models.carried(model, tensors, PROMPTS).items()}
    for pair in found.pairs:
        x, y = carried[pair.hook_in[0]], carried[pair.hook_out[0]]
        t = torch.relu(x @ transcoder.W_enc + transcoder.b_enc) @ transcoder.W_dec + transcoder.b_dec
        fvu = (t - y).square().sum() / (y - y.mean(0)).square().sum()
        acts = torch.relu(x @ transcoder.W_enc + transcoder.b_enc)
        expected = [fvu, (acts > 0).sum(1).double().mean(), x.norm(dim=1).mean(), y.norm(dim=1).mean()]
        measured = torch.tensor([pair.fvu, pair.l0, pair.norm_in, pair.norm_out], dtype=torch.float64)
        torch.testing.assert_close(measured, torch.stack(expected).detach())
        assert pair.autoencoder == (pair.hook_in == pair.hook_out)
        assert pair.autoencoder or x.shape != y.shape or not torch.allclose(x, y)


def test_an_autoencoder_is_told_from_a_transcoder():
    model = nine_families.plain("llama")
    (y,) = rows(model, "blocks.1.hook_mlp_out")
    found = hook_candidates(
        model, fitted(y, y, hook_name="blocks.1.mlp.hook_in", hook_name_out="blocks.1.hook_mlp_out"), SOME
    )
    assert found.best.autoencoder
    assert "model.layers.1.mlp" in found.best.hook_in
    assert "looks like an autoencoder" in found.verdict()


def test_an_autoencoder_is_advised_to_read_another_tensor_not_to_become_one():
    model = nine_families.plain("llama")
    (y,) = rows(model, "blocks.1.hook_mlp_out")
    unnamed = fitted(y, y, autoencoder=True)
    verdict = hook_candidates(model, unnamed, SOME, layer=1).verdict()
    assert "The autoencoder names no tensor" in verdict
    elsewhere = fitted(
        y, y, autoencoder=True, hook_name="blocks.1.hook_resid_pre", hook_name_out="blocks.1.hook_resid_pre"
    )
    for found in (verdict, hook_candidates(model, elsewhere, SOME).verdict()):
        assert "Pass --hook-in " in found
        assert "--autoencoder" not in found
        assert "--hook-out" not in found


def test_a_pair_that_was_asked_for_is_not_called_declared():
    model = nine_families.plain("llama")
    transcoder = fitted(*rows(model, *TRUE), hook_name=TRUE[0], hook_name_out=TRUE[1])
    found = hook_candidates(model, transcoder, SOME, hook_in="blocks.1.hook_resid_mid")
    assert found.verdict().startswith("The pair that was asked for (FVU ")
    assert (
        hook_candidates(model, transcoder, SOME, hook_in=TRUE[0]).verdict().startswith("The pair that was asked for is")
    )
    with pytest.raises(ValueError, match="the model has no hook nonsense"):
        hook_candidates(model, transcoder, SOME, hook_in="nonsense")


@pytest.mark.parametrize("kind", ["plain", "bridge"])
def test_without_a_block_all_are_searched(kind):
    model = getattr(nine_families, kind)("qwen3")
    transcoder = fitted(*rows(model, *TRUE))
    found = hook_candidates(model, transcoder, SOME)
    assert "blocks.1.mlp.hook_in" in found.best.hook_in
    assert found.declared is None
    assert "The file names no tensors" in found.verdict()
    assert "--hooks-anyway" not in found.verdict()
    elsewhere = hook_candidates(model, transcoder, SOME, layer=0)
    assert elsewhere.compared is not None
    assert "No pair fits" in elsewhere.verdict()


def test_a_declared_pair_that_is_the_best_one_may_fit_badly():
    model = nine_families.plain("llama")
    transcoder = fitted(*rows(model, *TRUE), hook_name=TRUE[0], hook_name_out=TRUE[1])
    found = hook_candidates(model, transcoder, SOME)
    weak = replace(found, pairs=(replace(found.best, fvu=0.8), *found.pairs[1:]))
    assert "The declared pair is the best one: " in found.verdict()
    assert "The declared pair is the best one, and fits badly" in weak.verdict()


def test_a_declared_pair_that_the_model_has_not_and_one_of_another_width():
    model = nine_families.plain("llama")
    x, y = rows(model, *TRUE)
    found = hook_candidates(model, fitted(x, y, hook_name="blocks.1.hook_nothing", hook_name_out=TRUE[1]), SOME)
    assert "The transcoder says blocks.1.hook_nothing" in found.verdict()
    with pytest.raises(ValueError, match="no two tensors there are 7 and 16 wide"):
        hook_candidates(model, fitted(x[:, :7], y, hook_name=TRUE[0], hook_name_out=TRUE[1]), SOME)
    with pytest.raises(ValueError, match="layer 0 was asked for"):
        hook_candidates(model, fitted(x, y, hook_name=TRUE[0], hook_name_out=TRUE[1]), SOME, layer=0)
    wanted = ("model.layers.1.mlp.input", "model.layers.1.mlp")
    asked = hook_candidates(model, fitted(x, y), SOME, hook_in=wanted[0], hook_out=wanted[1])
    assert asked.declared == wanted
    assert asked.best.compared


def test_only_the_tokens_that_are_kept_are_looked_at():
    model = nine_families.plain("llama")
    transcoder = fitted(*rows(model, *TRUE), hook_name=TRUE[0], hook_name_out=TRUE[1])
    kept = torch.zeros(SOME.shape, dtype=torch.bool)
    kept[:, 3:7] = True
    assert hook_candidates(model, transcoder, SOME, kept=kept).n_rows == 16


def sinks(model: Any, at: int) -> Any:
    """Adds a huge activation to what the second block's MLP reads and writes, at one position."""

    def moved(module: Any, args: Any, output: Tensor) -> Tensor:
        output = output.clone()
        output[:, at, 0] += 1000.0
        return output

    return model.model.layers[1].mlp.register_forward_hook(moved)


def test_rows_of_extreme_norm_are_left_out_of_every_pair_alike_and_warned_of():
    model = nine_families.plain("llama")
    x, y = rows(model, *TRUE)
    transcoder = fitted(x, y, hook_name=TRUE[0], hook_name_out=TRUE[1])
    kept = torch.ones_like(PROMPTS, dtype=torch.bool)
    kept[:, 5] = False
    clean = hook_candidates(model, transcoder, PROMPTS, kept=kept, norms_above=20.0)
    assert clean.n_rows == kept.sum()
    assert clean.compared is not None
    assert clean.compared.spread is not None
    assert not clean.compared.spread.warning
    with torch.no_grad():
        handle = sinks(model, 5)
        one_of = torch.zeros_like(PROMPTS, dtype=torch.bool)
        one_of[0] = True
        decided = hook_candidates(model, transcoder, PROMPTS, kept=kept | one_of)
        without = hook_candidates(model, transcoder, PROMPTS, norms_above=20.0)
        handle.remove()
    assert decided.compared is not None
    assert decided.compared.spread is not None
    assert "make more than half of the variance" in decided.compared.spread.warning
    assert without.n_rows == kept.sum()
    assert without.compared is not None
    assert without.compared.fvu == pytest.approx(clean.compared.fvu, rel=1e-4)


def test_tensors_that_are_not_finite_are_named():
    model = nine_families.plain("llama")
    x, y = rows(model, *TRUE)
    transcoder = fitted(x, y, hook_name=TRUE[0], hook_name_out=TRUE[1])
    handle = model.model.layers[1].mlp.register_forward_hook(lambda m, a, o: o * float("nan"))
    with pytest.raises(ValueError, match=r"NaN or Inf at blocks\.1\.\S+ of the model"):
        hook_candidates(model, transcoder, SOME)
    handle.remove()
