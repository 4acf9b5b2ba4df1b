"""The text of a run, as prompts of equal length."""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from faithfulness_plugin.display import line
from faithfulness_plugin.language_model.config import TextSource, TrainConfig, TrainConfigError
from faithfulness_plugin.language_model.document_places import DocumentIndex, DocumentPlaces
from faithfulness_plugin.language_model.documents import StreamedDocuments, read_documents
from faithfulness_plugin.layers.hooks import Hooks
from faithfulness_plugin.seeds import derived_seed

AT_A_TIME = 16
"""Documents that are tokenised at once."""


class Prompts:
    """Cuts documents into prompts [context_size] of tokens: a dataset in the form that SAELens reads, rows {"tokens":
    [...]}.

    Documents are put one after another, a beginning-of-text token between them and at the start of every prompt, as
    SAELens does.

    Args:
        documents: the text.
        tokenizer: the model's.
        context_size: tokens a prompt.
        seed: cuts the text once, and shuffles its prompts; None cuts it on the way, as a stream needs it.
        n_vocab: the size of the model's vocabulary; None checks no token.

    Raises:
        TrainConfigError: where the text is cut, for token ids outside the vocabulary.
    """

    def __init__(
        self,
        documents: Iterable[str],
        tokenizer: Any,
        context_size: int,
        seed: int | None,
        n_vocab: int | None = None,
    ) -> None:
        self.documents, self.tokenizer, self.context_size = documents, tokenizer, context_size
        self.n_vocab = n_vocab
        self.rows: list[dict[str, list[int]]] | None = None if seed is None else []
        if seed is not None:
            self._index = self._new_index()
            cut = list(self._cut(self._index))
            generator = torch.Generator().manual_seed(derived_seed(seed, "order of prompts"))
            order = torch.randperm(len(cut), generator=generator).tolist()
            self.rows, self._before = [{"tokens": cut[i][0]} for i in order], [cut[i][1] for i in order]

    def __repr__(self) -> str:
        n = "streamed" if self.rows is None else len(self.rows)
        return line("Prompts", {"prompts": n, "context_size": self.context_size})

    def __iter__(self) -> Iterator[dict[str, list[int]]]:
        if self.rows is not None:
            return iter(self.rows)
        return ({"tokens": tokens} for tokens, _ in self._cut(self._new_index()))

    def __getitem__(self, place: int | slice) -> dict[str, list[int]] | list[dict[str, list[int]]]:
        """Return one prompt, or some, of a text that is no stream.

        Args:
            place: its number, or a slice of numbers.

        Returns:
            A row {"tokens": [...]}, or several.

        Raises:
            TrainConfigError: the text is a stream, which has no places.
        """
        if self.rows is None:
            raise TrainConfigError(f"prompt {place} of a stream cannot be looked up: iterate over the prompts")
        return self.rows[place]

    def first(self, n: int) -> tuple[list[list[int]], DocumentPlaces]:
        """Return the first prompts, with the documents that they were cut from.

        Args:
            n: how many, where there are so many.

        Returns:
            The tokens of each, and the documents.
        """
        if self.rows is None:
            index = self._new_index()
            cut = list(islice(self._cut(index), n))
            found, before = [tokens for tokens, _ in cut], [tokens for _, tokens in cut]
        else:
            index, found, before = self._index, [row["tokens"] for row in self.rows[:n]], self._before[:n]
        return found, index.places(np.array(found, dtype=np.int64).reshape(-1, self.context_size), before)

    def _new_index(self) -> DocumentIndex:
        return DocumentIndex(self.tokenizer.bos_token_id)

    def _cut(self, index: DocumentIndex) -> Iterator[tuple[list[int], int]]:
        """Yield the tokens of each prompt, and how many tokens of documents there are before it."""
        from sae_lens.tokenization_and_batching import concat_and_batch_sequences

        bos, before = index.bos, 0
        if bos is not None:
            self._require_known(bos)
        for prompt in concat_and_batch_sequences(
            self._token_ids(index), self.context_size, begin_batch_token_id=bos, sequence_separator_token_id=bos
        ):
            tokens = prompt.tolist()
            yield tokens, before
            before += index.count(tokens)

    def say_skipped(self) -> None:
        """Say on stderr how many rows of a dataset had no text, if any."""
        if isinstance(self.documents, StreamedDocuments):
            self.documents.say_skipped()

    def _token_ids(self, index: DocumentIndex) -> Iterator[Tensor]:
        documents = iter(self.documents)
        # several are tokenised at once, by as many threads; of a stream one, so that no more of it is read than is used
        at_a_time = 1 if self.rows is None else AT_A_TIME
        while some := list(islice(documents, at_a_time)):
            each = self.tokenizer(some, add_special_tokens=False, verbose=False)["input_ids"]
            for document, ids in zip(some, each, strict=True):
                index.add(document, ids)
                if ids:
                    self._require_known(max(ids))
                    yield torch.tensor(ids)

    def _require_known(self, token: int) -> None:
        if self.n_vocab is not None and token >= self.n_vocab:
            raise TrainConfigError(
                f"the tokenizer makes token {token} ({self.tokenizer.convert_ids_to_tokens(token)!r}), and the model "
                f"has the tokens 0 to {self.n_vocab - 1}: use the model's own tokenizer"
            )


def load_prompts(config: TrainConfig, tokenizer: Any, hooks: Hooks | None = None) -> Prompts:
    """Cut the prompts that a config asks for.

    Args:
        config: says the text, the budget and the order.
        tokenizer: the model's.
        hooks: those of the model that has to take the prompts; None checks nothing.

    Returns:
        The prompts.

    Raises:
        TrainConfigError: as `placed_prompts`; a text that ends before the budget is used up, where its length is known.
    """
    prompts = _prompts(config.text, tokenizer, config.context_size, config.seed, hooks)
    if prompts.rows is not None:
        _require_enough(prompts.rows, tokenizer, config)
    return prompts


def placed_prompts(
    source: TextSource,
    tokenizer: Any,
    context_size: int,
    seed: int,
    n: int,
    least: int | None = None,
    hooks: Hooks | None = None,
) -> tuple[Tensor, DocumentPlaces]:
    """Cut the first n prompts of a text in a seeded order, and say which documents they are from.

    Args:
        source: the text.
        tokenizer: the model's.
        context_size: tokens a prompt.
        seed: decides the order.
        n: how many.
        least: how many will do, where fewer are enough; None needs n.
        hooks: those of the model that has to take the prompts; None checks nothing.

    Returns:
        Tokens [n, context_size], and the documents of all tokens.

    Raises:
        TrainConfigError: a text that cannot be read, or makes too few prompts; prompts longer than the model's
            positions; tokens outside its vocabulary.
    """
    prompts = _prompts(source, tokenizer, context_size, seed, hooks)
    found, documents = prompts.first(n)
    least = n if least is None else least
    if len(found) < least:
        made = f"{len(found)} prompts" if found else "no prompt"
        raise TrainConfigError(
            f"the text makes {made} of {context_size} tokens, and {least} {'is' if least == 1 else 'are'} needed: give "
            "more text, or ask for fewer or shorter prompts (context_size)"
        )
    prompts.say_skipped()
    return torch.tensor(found), documents


def _prompts(source: TextSource, tokenizer: Any, context_size: int, seed: int, hooks: Hooks | None) -> Prompts:
    n_positions, n_vocab = (None, None) if hooks is None else (hooks.n_positions, hooks.n_vocab)
    if n_positions is not None and context_size > n_positions:
        raise TrainConfigError(
            f"context_size {context_size} is longer than the model, which has {n_positions} positions: set "
            f"context_size (--context-size) to {n_positions} or less"
        )
    if source.streamed:
        return Prompts(StreamedDocuments(source, seed), tokenizer, context_size, None, n_vocab)
    return Prompts(read_documents(source), tokenizer, context_size, seed, n_vocab)


def _require_enough(rows: list[dict[str, list[int]]], tokenizer: Any, config: TrainConfig) -> None:
    """Raise TrainConfigError where the training would come to the end of the text."""
    special, first = set(config.rows.left_out(tokenizer).token_ids), config.rows.skip_first
    passes = max(0, len(rows) - config.held_out) // config.prompts_per_pass
    trained_on = rows[config.held_out :][: passes * config.prompts_per_pass]
    there = sum(token not in special for row in trained_on for token in row["tokens"][first:])
    needed = config.batch_size if config.text.repeat else config.rows_needed
    if not rows:
        raise TrainConfigError(
            f"the text makes no prompt of {config.context_size} tokens: give more text, or shorter prompts "
            "(context_size)"
        )
    if there < needed:
        raise TrainConfigError(
            f"the text makes {len(rows)} prompts of {config.context_size} tokens, {there:,} tokens to train on "
            f"after {config.held_out} held-out prompts, and {needed:,} are needed (the buffer counts): lower tokens or "
            "buffer_prompts, give more text, or set text: {repeat: true}"
        )
