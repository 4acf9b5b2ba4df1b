from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from sae_lens.config import LanguageModelSAERunnerConfig, LoggingConfig
from sae_lens.training.activations_store import ActivationsStore
from sae_lens.training.prefetch import PrefetchingIterator
from tiny_models import D_MODEL, hooked

from faithfulness_plugin import StandardTrainingTranscoderConfig
from faithfulness_plugin.adapters.sae_lens.store import ROWS_FILENAME, ResumableStore
from faithfulness_plugin.layers.any_model import hooks_of, mlp_layer

CONTEXT, N_VOCAB = 8, 400
NEW_EPOCH = pytest.mark.filterwarnings("ignore:All samples in the training dataset have been exhausted")


def model() -> Any:
    """A model whose embedding tells the token."""
    torch.manual_seed(0)
    made = hooked(dtype=torch.float32, d_vocab=N_VOCAB)
    with torch.no_grad():
        made.W_E[:, 0] = torch.arange(N_VOCAB)
    return made


def text(n_prompts: int = 20) -> list[dict[str, list[int]]]:
    """Every token comes once."""
    return [{"tokens": list(range(n * CONTEXT, (n + 1) * CONTEXT))} for n in range(n_prompts)]


def config(**fields: Any) -> LanguageModelSAERunnerConfig[Any]:
    defaults: dict[str, Any] = {
        "hook_name": "hook_embed",
        "context_size": CONTEXT,
        "training_tokens": 10_000,
        "train_batch_size_tokens": 6,
        "store_batch_size_prompts": 4,
        "n_batches_in_buffer": 4,
        "dataset_path": "given",
        "verbose": False,
    }
    sae = StandardTrainingTranscoderConfig(d_in=D_MODEL, d_out=D_MODEL, d_sae=16)
    logger = LoggingConfig(log_to_wandb=False)
    return LanguageModelSAERunnerConfig(sae=sae, logger=logger, **{**defaults, **fields})


def store(
    n_prompts: int = 20, n_held_out: int = 4, repeat: bool = True, seed: int = 1, **fields: Any
) -> ResumableStore:
    made = ResumableStore.from_config(model(), config(**fields), override_dataset=text(n_prompts))  # pyright: ignore[reportArgumentType]
    assert isinstance(made, ResumableStore)
    made.prepare(seed=seed, n_held_out=n_held_out, repeat=repeat)
    return made


def several(n_held_out: int = 4, seed: int = 1, names: tuple[str, ...] = ("hook_embed",), **fields: Any) -> Any:
    defaults: dict[str, Any] = {
        "context_size": CONTEXT,
        "train_batch_size_tokens": 6,
        "store_batch_size_prompts": 4,
        "n_batches_in_buffer": 4,
        **fields,
    }
    widths: dict[str, int] = dict.fromkeys(names, D_MODEL)
    made = ResumableStore.from_config_multi_hook(
        model=model(),
        dataset=text(),  # pyright: ignore[reportArgumentType]
        hook_names=list(names),
        hook_d_ins=widths,
        **defaults,
    )
    assert isinstance(made, ResumableStore)
    made.prepare(seed=seed, n_held_out=n_held_out)
    return made


def tokens_of(rows: torch.Tensor) -> list[int]:
    return [round(value) for value in rows[:, 0].tolist()]


def take(batches: Iterator[Any], made: ResumableStore, n: int) -> list[Any]:
    taken = []
    for batch in islice(batches, n):
        made.taken()
        taken.append(batch)
    return taken


@NEW_EPOCH
@pytest.mark.parametrize("mix", [0.0, 0.5])
def test_held_out_prompts_are_never_trained_on(mix):
    made = store(activations_mixing_fraction=mix)
    held_out = made.held_out_tokens()
    assert held_out.tolist() == [row["tokens"] for row in text()[:4]]
    seen = {token for batch in take(made, made, 80) for token in tokens_of(batch)}  # of 128 tokens, nearly four times
    assert seen == set(range(4 * CONTEXT, 20 * CONTEXT))
    assert made.held_out_tokens().tolist() == held_out.tolist()


@pytest.mark.exact("rows of the embedding, which are copies")
def test_looking_at_the_held_out_prompts_changes_nothing():
    looked, not_looked = store(), store()
    ours: list[torch.Tensor] = []
    for _ in range(9):
        looked.held_out_tokens()
        ours += take(looked, looked, 1)
    assert all(map(torch.equal, ours, take(not_looked, not_looked, 9)))
    assert looked.n_dataset_processed == not_looked.n_dataset_processed


@pytest.mark.exact("rows of the embedding, which are copies")
@NEW_EPOCH
@pytest.mark.parametrize("fields", [{}, {"exclude_special_tokens": [40, 41, 99]}, {"seqpos_slice": (2, -1)}])
def test_unmixed_batches_are_saelenss(fields):
    fields = {"activations_mixing_fraction": 0.0, **fields}
    made = store(**fields)
    stock = ActivationsStore.from_config(model(), config(**fields), override_dataset=text()[4:])  # pyright: ignore[reportArgumentType]
    batches = take(made, made, 40)
    assert all(map(torch.equal, batches, stock))
    assert not {40, 41, 99} & set(tokens_of(torch.cat(batches))) or "exclude_special_tokens" not in fields


def test_mixed_batches_hold_as_many_rows_as_saelenss_before_the_buffer_is_refilled():
    made = store(n_batches_in_buffer=16, store_batch_size_prompts=16)
    stock = ActivationsStore.from_config(
        model(),
        config(n_batches_in_buffer=16, store_batch_size_prompts=16),
        override_dataset=text()[4:],  # pyright: ignore[reportArgumentType]
    )
    ours = {token for batch in take(made, made, 10) for token in tokens_of(batch)}
    theirs = {token for batch in islice(stock, 10) for token in tokens_of(batch)}
    assert len(ours) == len(theirs) == 60  # half of the one buffer that holds the text
    assert ours | theirs <= set(range(4 * CONTEXT, 20 * CONTEXT))


@NEW_EPOCH
@pytest.mark.parametrize("mix", [0.0, 0.5])
def test_rows_of_several_hooks_stay_side_by_side(mix):
    layer = mlp_layer(model(), 1)
    names = ("hook_embed", layer.hook_in, layer.hook_out)
    made = several(names=names, activations_mixing_fraction=mix)
    batches = take(made.get_multi_hook_data_loader(), made, 40)
    for batch in batches:
        assert tuple(batch) == names
        torch.testing.assert_close(layer(batch[layer.hook_in]), batch[layer.hook_out], rtol=1e-4, atol=1e-5)
    x: dict[int, torch.Tensor] = {}
    for batch in batches:
        x |= dict(zip(tokens_of(batch["hook_embed"]), batch[layer.hook_in], strict=True))
    tokens = torch.tensor(text()[7]["tokens"])
    _, cache = made.model.run_with_cache(tokens[None])
    for token, row in zip(tokens.tolist(), cache[layer.hook_in][0], strict=True):
        torch.testing.assert_close(x[token], row, rtol=1e-4, atol=1e-5)


@pytest.mark.exact("rows of the embedding, which are copies")
@NEW_EPOCH
def test_one_hook_alone_or_with_others_gives_the_same_batches():
    alone, several_ = store(), several()
    for ours, theirs in zip(take(alone, alone, 40), several_.get_multi_hook_data_loader(), strict=False):
        assert torch.equal(ours, theirs["hook_embed"])


@pytest.mark.exact("rows of the embedding, which are copies")
@NEW_EPOCH
@pytest.mark.parametrize("prefetch", [0, 1, 3])
@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"activations_mixing_fraction": 0.0},
        {"exclude_special_tokens": [40, 41, 99, 130], "seqpos_slice": (1, None, 2)},
        {"store_batch_size_prompts": 5, "train_batch_size_tokens": 7, "n_batches_in_buffer": 3},
    ],
)
def test_a_saved_place_goes_on_with_the_same_batches(tmp_path, prefetch, fields):
    def opened(made: ResumableStore) -> Iterator[torch.Tensor]:
        return PrefetchingIterator(iter(made), prefetch) if prefetch else iter(made)

    straight = store(**fields)
    expected = take(straight, straight, 66)
    for cut in (0, 1, 4, 17, 31, 48):  # the first epoch, its end, the second
        saved, resumed = store(**fields), store(seed=99, **fields)
        data = opened(saved)
        assert all(map(torch.equal, take(data, saved, cut), expected))
        folder = tmp_path / str(cut)
        folder.mkdir()
        saved.save_to_checkpoint(folder)
        resumed.load_from_checkpoint(folder)
        more = opened(resumed)
        if cut:  # a store that was not asked has no order of its own yet
            assert all(map(torch.equal, take(more, resumed, 7), expected[cut:]))
            again, third = folder / "again", store(seed=98, **fields)
            again.mkdir()
            resumed.save_to_checkpoint(again)
            third.load_from_checkpoint(again)
            last = opened(third)
            ours = take(last, third, 9)
            assert len(ours) == 9
            assert all(map(torch.equal, ours, expected[cut + 7 :]))
            _close(last)
        _close(data)
        _close(more)


def _close(data: Any) -> None:
    if isinstance(data, PrefetchingIterator):
        data.close()


@pytest.mark.exact("rows of the embedding, which are copies")
def test_a_saved_place_before_the_first_batch_is_the_beginning(tmp_path):
    straight, saved, resumed = store(), store(), store()
    saved.save_to_checkpoint(tmp_path)
    resumed.load_from_checkpoint(tmp_path)
    assert all(map(torch.equal, take(resumed, resumed, 9), take(straight, straight, 9)))


@pytest.mark.exact("rows of the embedding, which are copies")
@NEW_EPOCH
def test_a_place_that_was_restored_and_not_used_is_kept(tmp_path):
    straight, saved = store(), store()
    expected = take(straight, straight, 14)
    take(saved, saved, 5)
    first, second = tmp_path / "1", tmp_path / "2"
    first.mkdir()
    second.mkdir()
    saved.save_to_checkpoint(first)
    unused, resumed = store(), store()
    unused.load_from_checkpoint(first)
    unused.save_to_checkpoint(second)
    resumed.load_from_checkpoint(second)
    assert all(map(torch.equal, take(resumed, resumed, 9), expected[5:]))


@pytest.mark.exact("rows of the embedding, which are copies")
def test_saelens_asks_for_a_checkpoint_again_to_no_effect(tmp_path):
    saved, straight, resumed = store(), store(), store()
    expected = take(straight, straight, 12)
    take(saved, saved, 5)
    saved.save_to_checkpoint(tmp_path)
    resumed.load_from_checkpoint(tmp_path)
    ours = take(resumed, resumed, 3)
    resumed.load_from_checkpoint(str(tmp_path))
    assert all(map(torch.equal, ours + take(resumed, resumed, 4), expected[5:]))


@pytest.mark.bitwise("the same prompts in the same batches through one model round alike")
@NEW_EPOCH
def test_several_hooks_go_on_from_a_saved_place(tmp_path):
    names = ("hook_embed", "blocks.1.hook_resid_mid")
    straight, saved, resumed = (several(names=names, seed=seed) for seed in (1, 1, 99))
    expected = take(straight.get_multi_hook_data_loader(), straight, 50)
    take(saved.get_multi_hook_data_loader(), saved, 28)
    saved.save_to_checkpoint(tmp_path)
    resumed.load_from_checkpoint(tmp_path)
    for ours, theirs in zip(take(resumed.get_multi_hook_data_loader(), resumed, 22), expected[28:], strict=True):
        assert all(torch.equal(ours[name], theirs[name]) for name in names)


def test_a_text_that_may_not_repeat_ends():
    made = store(repeat=False)
    with pytest.raises(ValueError, match=r"ended after 16 prompts of 8 tokens, before the budget of 10000 tokens"):
        take(made, made, 100)


@pytest.mark.filterwarnings("ignore:All samples in the training dataset have been exhausted")
def test_a_text_that_may_repeat_does_not_end():
    made = store()
    assert len(take(made, made, 100)) == 100


@pytest.mark.parametrize(("n_prompts", "n_held_out"), [(4, 4), (4, 20)])
def test_a_text_with_nothing_left_to_train_on_is_named(n_prompts, n_held_out):
    message = rf"the text has 4 prompts of 8 tokens, and {n_held_out} are held out for evaluation: use a longer text"
    with pytest.raises(ValueError, match=message):
        store(n_prompts=n_prompts, n_held_out=n_held_out).held_out_tokens()


def test_nothing_need_be_held_out():
    made = store(n_held_out=0)
    assert made.held_out_tokens().numel() == 0
    assert set(tokens_of(torch.cat(take(made, made, 3)))) <= set(range(20 * CONTEXT))


@NEW_EPOCH
@pytest.mark.parametrize("n_batches_in_buffer", [2, 4, 12])
def test_memory_is_what_the_flags_say(tmp_path, n_batches_in_buffer):
    made = store(n_batches_in_buffer=n_batches_in_buffer)
    row = D_MODEL * 4
    for _ in range(40):
        take(made, made, 1)
        assert made._rows is not None
        assert made._rows.buffer is not None
        assert made._rows.carry is not None
        assert made._rows.buffer.untyped_storage().nbytes() == n_batches_in_buffer * CONTEXT * row
        assert made._rows.carry.untyped_storage().nbytes() <= 4 * CONTEXT * row
        assert not made._on_the_way
    made.save_to_checkpoint(tmp_path)
    beside = 8 * n_batches_in_buffer * CONTEXT + 10_000  # the order; the generator and names
    assert _size(tmp_path / ROWS_FILENAME) <= (n_batches_in_buffer + 4) * CONTEXT * row + beside


def _size(path: Path) -> int:
    return path.stat().st_size


@pytest.mark.exact("rows of the embedding, which are copies")
@pytest.mark.parametrize("seed", [1, 2])
def test_the_order_is_the_seeds(seed):
    one, two = store(seed=1), store(seed=seed)
    torch.rand(3)
    assert all(map(torch.equal, take(one, one, 9), take(two, two, 9))) == (seed == 1)


@NEW_EPOCH
@pytest.mark.parametrize("alone", [True, False])
def test_rows_that_are_not_within_the_limits_are_not_trained_on(alone):
    made = store() if alone else several()
    made.within = lambda rows: (rows["hook_embed"][:, 0].round() % 3 != 0) & (rows["hook_embed"][:, 0] < 150)
    batches = take(made if alone else made.get_multi_hook_data_loader(), made, 60)
    rows = torch.cat(batches if alone else [batch["hook_embed"] for batch in batches])
    assert set(tokens_of(rows)) == {token for token in range(4 * CONTEXT, 150) if token % 3}


HOOKS = ("blocks.0.ln2.hook_normalized", "hook_embed", "blocks.1.hook_resid_mid")


@pytest.mark.bitwise("one model on the same prompts rounds alike")
@pytest.mark.parametrize("positions", [(None,), (2, -1)])
def test_a_run_that_ends_at_the_last_hook_gives_the_rows_of_a_whole_one(positions):
    made, stock = (several(names=HOOKS, seqpos_slice=positions) for _ in range(2))
    made.hooks = hooks_of(made.model)
    tokens = torch.tensor([row["tokens"] for row in text()[:4]])
    logits: list[Any] = []
    handle = made.model.unembed.register_forward_hook(lambda *_: logits.append(1))
    ours, theirs = made.get_multi_hook_activations(tokens), stock.get_multi_hook_activations(tokens)
    handle.remove()
    assert not logits
    assert list(ours) == list(theirs) == list(HOOKS)
    for name in HOOKS:
        assert torch.equal(ours[name], theirs[name])


@pytest.mark.exact("rows that half precision rounds in one way")
def test_a_buffer_in_half_precision_gives_the_same_rows_rounded_and_can_be_saved(tmp_path):
    plain, half, resumed = several(), several(), several()
    for made in (half, resumed):
        made.buffer_dtype = torch.bfloat16
    ours, right = half.get_multi_hook_data_loader(), plain.get_multi_hook_data_loader()
    for batch, whole in zip(take(ours, half, 5), take(right, plain, 5), strict=True):
        assert batch["hook_embed"].dtype == torch.float32
        assert torch.equal(batch["hook_embed"], whole["hook_embed"].bfloat16().float())
    half.save_to_checkpoint(tmp_path)
    resumed.load_from_checkpoint(tmp_path)
    again = resumed.get_multi_hook_data_loader()
    for batch, whole in zip(take(again, resumed, 9), take(ours, half, 9), strict=True):
        assert torch.equal(batch["hook_embed"], whole["hook_embed"])
    assert half._rows.buffer.dtype == torch.bfloat16
