from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load
from tiny_models import D_MODEL, N_VOCAB, bridge, hooked
from torch import Tensor

from faithfulness_plugin import layer_jvp
from faithfulness_plugin.adapters.transformer_lens.hooks import TransformerLensHooks
from faithfulness_plugin.layers.any_model import mlp_layer
from faithfulness_plugin.layers.hooks import Hook
from faithfulness_plugin.store import DerivativeStore, StoredRows, StoreError
from faithfulness_plugin.store.fill import Filling, fill, rows_at
from faithfulness_plugin.store.left_out import LeftOut

TOKENS = torch.randint(N_VOCAB, (10, 6), generator=torch.Generator().manual_seed(5))
EXCLUDED = TOKENS[0, :2]
PER_SHARD = 4  # so that the last of three has fewer
MODELS = {"hooked": hooked, "bridge": lambda: bridge("llama")}


class CountedHooks(TransformerLensHooks):
    """Counts the prompts that the model is run on."""

    prompts = 0

    def run(self, tokens: Tensor, hooks: Mapping[str, Hook], last: int | None = None) -> Tensor:
        self.prompts += len(tokens)
        return super().run(tokens, hooks, last)


def filling(folder: Path, model: Any, block: int = 1, **options: Any) -> Filling:
    layer = mlp_layer(model, block)
    store = DerivativeStore.create(
        folder,
        source={"layer": str(block)},
        d_in=D_MODEL,
        d_out=D_MODEL,
        products=[{}, {"estimator": "secant", "probe": "pair"}],
        n_shards=3,
        dtype="float64",
    )
    return Filling(store, layer, **options)


def filled(model: Any, *fillings: Filling, hooks: CountedHooks | None = None, **options: Any) -> list[int]:
    """The numbers of the shards that were made."""
    made: list[int] = []
    options = {"exclude": EXCLUDED, "prompts_per_shard": PER_SHARD, "on_shard": made.append, **options}
    fill(hooks or CountedHooks(model), fillings, TOKENS, **options)
    return made


def carried(model: Any, tokens: Tensor, name: str) -> Tensor:
    """What a hook carries at the tokens that are not excluded."""
    _, cache = model.run_with_cache(tokens)
    return cache[name].detach()[~torch.isin(tokens, EXCLUDED)]


def data(files: dict[str, tuple[bytes, int]]) -> dict[str, bytes]:
    return {name: data for name, (data, _) in files.items()}


def assert_same_tensors(ours: dict[str, bytes], theirs: dict[str, bytes]) -> None:
    """Shards agree up to rounding, since the model is run on other prompts beside them."""
    assert ours.keys() == theirs.keys()
    for name in ours:
        torch.testing.assert_close(load(ours[name]), load(theirs[name]))


def files(filling: Filling) -> dict[str, tuple[bytes, int]]:
    return {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in filling.store.folder.glob("rows-*")}


@pytest.mark.parametrize("kind", MODELS)
def test_the_rows_are_what_the_models_hooks_carry_but_for_excluded_tokens(tmp_path, kind):
    model = MODELS[kind]()
    one = filling(tmp_path, model)
    assert filled(model, one, batch_size=3) == [0, 1, 2]
    for number in range(3):
        prompts = TOKENS[number * PER_SHARD : (number + 1) * PER_SHARD]
        found = one.store.read_shard(number, one.store.product({}))
        assert len(found["x"]) < prompts.numel() or number > 0  # something was excluded
        torch.testing.assert_close(found["x"], carried(model, prompts, one.layer.hook_in))
        torch.testing.assert_close(found["y"], carried(model, prompts, one.layer.hook_out))
        torch.testing.assert_close(found["Jv"][:, 0], layer_jvp(one.layer, found["x"], found["v"][:, 0])[1])


def test_without_tokens_to_exclude_every_one_has_its_row(tmp_path):
    model = hooked()
    one = filling(tmp_path, model)
    filled(model, one, exclude=None)
    assert one.store.index.n_rows == TOKENS.numel()


def test_several_layers_are_filled_from_one_run(tmp_path):
    model = hooked()
    hooks, alone = CountedHooks(model), filling(tmp_path / "alone", model, 0)
    both = [filling(tmp_path / str(block), model, block) for block in (1, 0)]
    filled(model, *both, hooks=hooks)
    assert hooks.prompts == len(TOKENS)
    for one in both:
        found = one.store.read_shard(1, None)
        torch.testing.assert_close(found["x"], carried(model, TOKENS[4:8], one.layer.hook_in))
    filled(model, alone)
    assert_same_tensors(data(files(alone)), data(files(both[1])))


def test_the_model_is_run_no_further_than_the_last_layer(tmp_path):
    model, seen = hooked(), []
    hooks, first = CountedHooks(model), filling(tmp_path, model, 0)
    model.blocks[1].hook_resid_pre.add_hook(lambda x, hook: seen.append(1), is_permanent=True)
    filled(model, first, hooks=hooks)
    assert hooks.prompts
    assert not seen
    assert set(rows_at(hooks, {"blocks.0.hook_mlp_out", "blocks.1.hook_mlp_out"}, TOKENS, None)) == {
        "blocks.0.hook_mlp_out",
        "blocks.1.hook_mlp_out",
    }
    assert seen


@pytest.mark.parametrize("share", [0.0, 0.1, 0.7])
def test_a_repeated_prompt_has_its_share_of_every_shard(tmp_path, share):
    model, prompt = hooked(), torch.arange(8)[None] + 20
    one = filling(tmp_path / "repeated", model, repeated=prompt, share=share)
    plain = filling(tmp_path / "plain", model)
    filled(model, one, plain)
    again = carried(model, prompt, one.layer.hook_in)
    for number in range(3):
        x, others = (f.store.read_shard(number, None)["x"] for f in (one, plain))
        n = len(x) - len(others)
        assert n / len(x) == pytest.approx(share, abs=1 / len(x))
        torch.testing.assert_close(x[: len(others)], others)
        torch.testing.assert_close(x[len(others) :], again.repeat(n, 1)[:n])


class Interrupted(Exception):
    pass


def interrupt_at(shard: int) -> Any:
    def on_shard(number: int) -> None:
        if number == shard:
            raise Interrupted

    return on_shard


def test_an_interrupted_filling_goes_on_with_the_rest_alone(tmp_path):
    model, prompt = hooked(), torch.arange(8)[None] + 20
    options: dict[str, Any] = {"repeated": prompt, "share": 0.2}
    whole, stopped = (filling(tmp_path / name, model, **options) for name in ("whole", "stopped"))
    filled(model, whole)
    with pytest.raises(Interrupted):
        filled(model, stopped, on_shard=interrupt_at(1))
    assert stopped.store.missing() == [2]
    before = files(stopped)
    hooks = CountedHooks(model)
    assert filled(model, filling(tmp_path / "stopped", model, **options), hooks=hooks) == [2]
    assert hooks.prompts == 2 + len(prompt)  # the last shard's
    after = files(stopped)
    assert {name: after[name] for name in before} == before
    assert_same_tensors(data(after), data(files(whole)))
    next(StoredRows(DerivativeStore.open(tmp_path / "stopped"), {}, batch_size=8))


def test_nothing_is_run_for_stores_that_are_full(tmp_path):
    model, prompt = hooked(), torch.arange(8)[None]
    one = filling(tmp_path, model, repeated=prompt, share=0.2)
    filled(model, one)
    hooks = CountedHooks(model)
    assert filled(model, one, hooks=hooks) == []
    assert hooks.prompts == 0


def test_what_one_store_lost_is_made_for_it_alone(tmp_path):
    model = hooked()
    lost, kept = (filling(tmp_path / str(block), model, block) for block in (0, 1))
    filled(model, lost, kept)
    before = files(lost), files(kept)
    (lost.store.folder / "rows-00001.safetensors").unlink()
    hooks = CountedHooks(model)
    assert filled(model, lost, kept, hooks=hooks) == [1]
    assert hooks.prompts == PER_SHARD
    assert files(kept) == before[1]
    assert_same_tensors(data(files(lost)), data(before[0]))


@pytest.mark.parametrize(("n", "shards"), [(4, 1), (13, 4)])
def test_another_number_of_prompts_is_refused(tmp_path, n, shards):
    model = hooked()
    one = filling(tmp_path, model)
    with pytest.raises(ValueError, match=rf"{n} prompts make {shards} shards of 4, and .* has 3: pass the prompts"):
        fill(CountedHooks(model), [one], torch.zeros(n, 6, dtype=torch.long), prompts_per_shard=PER_SHARD)
    assert one.store.missing() == [0, 1, 2]


def test_a_store_that_somebody_writes_stops_it_before_the_model_runs_and_frees_the_others(tmp_path):
    model = hooked()
    free, taken = (filling(tmp_path / str(block), model, block) for block in (0, 1))
    hooks = CountedHooks(model)
    with DerivativeStore.open(tmp_path / "1").writing(), pytest.raises(StoreError, match="is being written"):
        filled(model, free, taken, hooks=hooks)
    assert hooks.prompts == 0
    assert filled(model, free, taken) == [0, 1, 2]


def test_a_model_is_left_without_hooks(tmp_path):
    model = hooked()
    expected = model(TOKENS)
    with pytest.raises(Interrupted):
        filled(model, filling(tmp_path, model), on_shard=interrupt_at(0))
    assert not any(point.fwd_hooks for point in model.hook_dict.values())
    torch.testing.assert_close(model(TOKENS), expected)


def test_rows_of_first_positions_and_of_extreme_norm_are_not_stored(tmp_path):
    model = hooked()
    whole, part = filling(tmp_path / "whole", model), filling(tmp_path / "part", model)
    filled(model, whole, exclude=LeftOut(skip_first=2))
    filled(model, part, exclude=LeftOut(skip_first=2, norms_above=1.02))
    first = whole.store.read_shard(0, None)["x"]
    norms = first.norm(dim=1), whole.layer(first).norm(dim=1)
    limits = [1.02 * of.median() for of in norms]
    left_out = 0
    for number in range(3):
        x = whole.store.read_shard(number, None)["x"]
        usual = (x.norm(dim=1) <= limits[0]) & (whole.layer(x).norm(dim=1) <= limits[1])
        assert len(x) == (4 if number < 2 else 2) * 4
        left_out += int((~usual).sum())
        torch.testing.assert_close(part.store.read_shard(number, None)["x"], x[usual])
    assert 0 < left_out < 40


def test_prompts_that_do_not_fit_the_model_are_refused_before_a_store_is_touched(tmp_path):
    model = hooked()
    of = filling(tmp_path / "store", model)
    with pytest.raises(ValueError, match="33 tokens do not fit the model"):
        fill(CountedHooks(model), [of], torch.zeros(10, 33, dtype=torch.long), prompts_per_shard=PER_SHARD)
    assert not of.store.index.shards
