"""SAELens's ActivationsStore, with a place that can be saved exactly and prompts that are never trained on."""

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from sae_lens.training.activations_store import ActivationsStore
from safetensors.torch import load_file, save_file
from torch import Tensor
from typing_extensions import override

from faithfulness_plugin.adapters.sae_lens.shuffled_rows import ShuffledRows
from faithfulness_plugin.layers.hooks import Hooks
from faithfulness_plugin.seeds import derived_seed
from faithfulness_plugin.store.fill import rows_kept

ROWS_FILENAME = "activation_rows.safetensors"


class TextEndedError(ValueError):
    """The text ended, and must not be repeated."""


class ResumableStore(ActivationsStore):
    """The stock store, made by its own `from_config` or `from_config_multi_hook`, and then `prepare`d.

    The first prompts of the text are held out, in every epoch. A checkpoint holds the rows in the buffer, the order in
    which they come, and the place in the text, so that a resumed run sees the batches of the uninterrupted one; also
    with `prefetch_llm_batches`, whose batches on the way are saved as well. `lock` is held whenever the model is run.
    """

    within: Callable[[Mapping[str, Tensor]], Tensor] | None = None
    """Decides, from the rows by hook, which of them have usual norms; None keeps all."""
    hooks: Hooks | None = None
    """The model's; None reads activations as SAELens does."""
    buffer_dtype: torch.dtype | None = None
    """The dtype of the rows in the buffer; None for their own. Batches come in the rows' own."""
    n_held_out = 0
    repeat = True
    _seed = 0
    _n_sequences = 0
    _rows: ShuffledRows | None = None

    def prepare(self, *, seed: int, n_held_out: int, repeat: bool = True) -> None:
        """Set up what SAELens's constructors do not know, before the first batch.

        Args:
            seed: decides the order of the rows.
            n_held_out: prompts that are not trained on.
            repeat: start the text again where it ends; otherwise that is a ValueError.
        """
        self.lock = threading.RLock()
        self.n_held_out, self.repeat, self._seed = n_held_out, repeat, seed
        self._on_the_way: deque[Tensor] = deque()  # made, not yet taken
        self._replayed: deque[Tensor] = deque()  # taken from a checkpoint, to be made first
        self._restored: dict[str, Tensor] | None = None
        self._restored_from: str | None = None

    @cached_property
    def first_prompts(self) -> Int[Tensor, "prompts pos"]:
        """The prompts that are held out, and one more. Raises ValueError for a text with fewer prompts."""
        processed = self.n_dataset_processed
        prompts = list(islice(super()._iterate_tokenized_sequences(), self.n_held_out + 1))
        self.n_dataset_processed = processed
        if len(prompts) <= self.n_held_out:
            raise ValueError(
                f"the text has {len(prompts)} prompts of {self.context_size} tokens, and {self.n_held_out} are held "
                "out for evaluation: use a longer text, a smaller context_size, or less evaluation (n_eval_batches, "
                "eval_batch_size_prompts)"
            )
        return torch.stack(prompts)

    def held_out_tokens(self) -> Int[Tensor, "prompts pos"]:
        """Read the prompts that are not trained on.

        Returns:
            Tokens on the model's device.

        Raises:
            ValueError: the text has fewer prompts.
        """
        return self.first_prompts[: self.n_held_out].to(next(self.model.parameters()).device)

    @override
    def _iterate_tokenized_sequences(self) -> Generator[Tensor, None, None]:
        self._n_sequences = 0
        for prompt in islice(super()._iterate_tokenized_sequences(), self.n_held_out, None):
            self._n_sequences += 1
            yield prompt

    @override
    def get_batch_tokens(self, *args: Any, **kwargs: Any) -> Tensor:
        try:
            return super().get_batch_tokens(*args, **kwargs)
        except StopIteration:
            if self.repeat:
                raise
            raise TextEndedError(
                f"the text ended after {self._n_sequences} prompts of {self.context_size} tokens, before the budget of "
                f"{self.total_training_tokens} tokens was reached: lower the budget, use a longer text, or allow it to "
                "be repeated"
            ) from None

    @override
    @torch.no_grad()
    def get_multi_hook_activations(self, batch_tokens: Int[Tensor, "prompts pos"]) -> dict[str, Tensor]:
        """SAELens's own, from a run that ends at the last of the hooks, so that no logits are computed."""
        names = self._hook_names or ()
        if self.hooks is None or self.autocast_lm or self.model_kwargs or any(self._hook_head_indices.values()):
            return super().get_multi_hook_activations(batch_tokens)
        rows = rows_kept(self.hooks, set(names), batch_tokens, None, len(batch_tokens))
        return {name: rows[name].unflatten(0, batch_tokens.shape)[:, slice(*self.seqpos_slice)] for name in names}

    @override
    def get_data_loader(self) -> Iterator[Tensor]:
        rows = ({self.hook_name: x} for x in self._iterate_filtered_activations())
        return (batch[self.hook_name] for batch in self._shuffled(rows, {self.hook_name: self.d_in}))

    @override
    def get_multi_hook_data_loader(self) -> Iterator[dict[str, Tensor]]:
        assert self._hook_d_ins is not None
        widths = {name: self._hook_d_ins[name] for name in self._hook_names or ()}
        return self._shuffled(self._iterate_filtered_multi_hook_activations(), widths)

    def _shuffled(self, by_hook: Iterator[dict[str, Tensor]], widths: Mapping[str, int]) -> Iterator[dict[str, Tensor]]:
        """Yield batches by hook, from rows that stand side by side, so that one shuffle serves all hooks."""

        own = dict[str, torch.dtype]()

        def packed() -> Iterator[Tensor]:
            for rows in by_hook:
                own.update({name: rows[name].dtype for name in widths})
                x = torch.cat([rows[name].to(self.buffer_dtype or own[name]) for name in widths], dim=-1)
                yield x if self.within is None else x[self.within(rows).to(x.device)]

        for batch in self._batches(packed()):
            parts = batch.split(list(widths.values()), dim=-1)
            # a batch of a checkpoint may come before the first rows, whose dtype is then the store's
            yield {name: x.to(own.get(name, self.dtype)) for name, x in zip(widths, parts, strict=True)}

    def _batches(self, source: Iterator[Float[Tensor, "rows width"]]) -> Iterator[Tensor]:
        rows = self._rows = ShuffledRows(
            source,
            capacity=self.n_batches_in_buffer * self.training_context_size,
            batch_size=self.train_batch_size_tokens,
            mix_fraction=self.activations_mixing_fraction,
            generator=torch.Generator().manual_seed(derived_seed(self._seed, "order of rows")),
        )
        if self._restored is not None:
            rows.load_state_dict(self._restored)
        while True:
            with self.lock:
                batch = self._replayed.popleft() if self._replayed else next(rows)
                self._on_the_way.append(batch)
            yield batch

    def taken(self) -> None:
        """Note that the consumer has the oldest of the batches that were made."""
        self._on_the_way.popleft()

    @override
    def save_to_checkpoint(self, checkpoint_path: str | Path) -> None:
        super().save_to_checkpoint(checkpoint_path)
        with self.lock:
            ahead = [*self._on_the_way, *self._replayed]
            # a store that was put somewhere and not used since is there still
            rows = self._restored or {} if self._rows is None else self._rows.state_dict()
            state = {f"rows.{name}": tensor for name, tensor in rows.items()}
            state["n_sequences"] = torch.tensor(self._n_sequences)
            state["n_dataset_processed"] = torch.tensor(self.n_dataset_processed)
            if ahead:
                state["ahead"] = torch.stack(ahead)
            save_file(state, Path(checkpoint_path) / ROWS_FILENAME)

    @override
    def load_from_checkpoint(self, checkpoint_path: str | Path) -> None:
        """Restore the state once: SAELens calls this when its prefetching thread has begun already, so it is called
        before."""
        if self._restored_from == str(checkpoint_path):
            return
        self._restored_from = str(checkpoint_path)
        state = load_file(Path(checkpoint_path) / ROWS_FILENAME, device=str(self.device))
        rows = {name.removeprefix("rows."): tensor for name, tensor in state.items() if name.startswith("rows.")}
        on_cpu = {name: rows[name].cpu() for name in ("order", "generator", "empty") if name in rows}
        self._restored = {**rows, **on_cpu} if rows else None
        self._replayed = deque(state["ahead"]) if "ahead" in state else deque()
        self.iterable_sequences = self._iterate_tokenized_sequences()
        for _ in range(int(state["n_sequences"])):
            next(self.iterable_sequences)
        self.n_dataset_processed = int(state["n_dataset_processed"])
