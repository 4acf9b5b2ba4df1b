"""The text of a run, as prompts of equal length."""

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from faithfulness_plugin.benchmarks.language_model.config import OFFLINE_TEXT, TextSource, TrainConfig, TrainConfigError
from faithfulness_plugin.seeds import derived_seed
from faithfulness_plugin.terminal import one_line

SHUFFLED_AT_A_TIME = 10_000  # documents of a stream


class Prompts:
    """Prompts [context_size] of tokens, as a dataset in the form that SAELens reads: rows {"tokens": [...]}.

    Documents are put one after another, a beginning-of-text token between them and at the start of every prompt, as
    SAELens does. A text at hand is cut once, and its prompts shuffled; a stream is cut on the way.
    """

    def __init__(self, documents: Iterable[str], tokenizer: Any, context_size: int, seed: int | None) -> None:
        self.documents, self.tokenizer, self.context_size = documents, tokenizer, context_size
        self.rows: list[dict[str, list[int]]] | None = None
        if seed is not None:
            cut = [{"tokens": prompt.tolist()} for prompt in self._cut()]
            generator = torch.Generator().manual_seed(derived_seed(seed, "order of prompts"))
            self.rows = [cut[i] for i in torch.randperm(len(cut), generator=generator).tolist()]

    def __iter__(self) -> Iterator[dict[str, list[int]]]:
        if self.rows is not None:
            return iter(self.rows)
        return ({"tokens": prompt.tolist()} for prompt in self._cut())

    def _cut(self) -> Iterator[Tensor]:
        from sae_lens.tokenization_and_batching import concat_and_batch_sequences

        bos = self.tokenizer.bos_token_id
        return concat_and_batch_sequences(
            self._token_ids(), self.context_size, begin_batch_token_id=bos, sequence_separator_token_id=bos
        )

    def _token_ids(self) -> Iterator[Tensor]:
        for document in self.documents:
            ids = self.tokenizer(document, add_special_tokens=False, verbose=False)["input_ids"]
            if ids:
                yield torch.tensor(ids)


def load_prompts(config: TrainConfig, tokenizer: Any) -> Prompts:
    """The prompts that a config asks for.

    Raises TrainConfigError for a text that cannot be had, has no such column, or (where its length is known) is too
    short for the budget.
    """
    source = config.text
    if not source.files and source.name != OFFLINE_TEXT:
        return Prompts(_Streamed(source, config.seed), tokenizer, config.context_size, None)
    prompts = Prompts(_documents(source), tokenizer, config.context_size, config.seed)
    _require_enough(prompts, tokenizer, config)
    return prompts


def cut_prompts(
    source: TextSource, tokenizer: Any, context_size: int, seed: int, n: int, least: int | None = None
) -> Tensor:
    """The first n prompts [n, context_size] of a text, its order shuffled. Raises TrainConfigError for a text that
    cannot be had, or makes fewer (where fewer will do: than `least`)."""
    at_hand = bool(source.files) or source.name == OFFLINE_TEXT
    documents = _documents(source) if at_hand else _Streamed(source, seed)
    found = list(islice(Prompts(documents, tokenizer, context_size, seed if at_hand else None), n))
    least = n if least is None else least
    if len(found) < least:
        raise TrainConfigError(
            f"the text makes {len(found)} prompts of {context_size} tokens, and {least} are needed: give more text, or "
            "lower tokens"
        )
    return torch.tensor([row["tokens"] for row in found])


def _require_enough(prompts: Prompts, tokenizer: Any, config: TrainConfig) -> None:
    """Raises TrainConfigError where the training would come to the end of the text."""
    from sae_lens.util import get_special_token_ids

    assert prompts.rows is not None
    special = set(get_special_token_ids(tokenizer))
    held_out, at_a_time = config.held_out, config.prompts_per_pass
    passes = max(0, len(prompts.rows) - held_out) // at_a_time
    there = sum(
        sum(token not in special for token in row["tokens"])
        for row in prompts.rows[held_out : held_out + passes * at_a_time]
    )
    needed = config.batch_size if config.text.repeat else config.rows_needed
    if not passes or there < needed:
        raise TrainConfigError(
            f"the text makes {len(prompts.rows)} prompts of {config.context_size} tokens, {there:,} tokens to train on "
            f"after {held_out} held-out prompts, and {needed:,} are needed (the buffer counts): lower tokens or "
            "buffer_prompts, give more text, or set text: {repeat: true}"
        )


def _documents(source: TextSource) -> list[str]:
    if not source.files:
        from faithfulness_plugin.adapters import speeches

        try:
            return speeches.documents()
        except (ValueError, ImportError) as error:
            raise TrainConfigError(str(error)) from error
    found: list[Path] = []
    for name in source.files:
        path = Path(name).expanduser()
        found += sorted(path.rglob("*.txt")) if path.is_dir() else [path]
    if not found:
        raise TrainConfigError(f"text.files: there is no .txt file in {', '.join(source.files)}: name files or folders")
    return [_read(path) for path in found]


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TrainConfigError(
            f"text.files: {path} cannot be read as text ({one_line(error)}): name text files in UTF-8"
        ) from error


class _Streamed:
    """A column of a dataset on the hub, read from its start whenever iterated."""

    def __init__(self, source: TextSource, seed: int) -> None:
        import datasets

        self.column = source.column
        try:
            dataset = datasets.load_dataset(source.name, source.subset, split=source.split, streaming=True)
            first = next(iter(dataset), None)
        except Exception as error:  # whatever hub, network and files make of it
            raise TrainConfigError(
                f"dataset {source.name} could not be loaded ({one_line(error)}): check name, subset, split and the "
                f"network, or use text: {{name: {OFFLINE_TEXT}}} or text: {{files: [...]}}, which need none"
            ) from error
        columns = [] if first is None else list(first)
        if self.column not in columns or not isinstance(first[self.column], str):  # pyright: ignore[reportOptionalSubscript]
            raise TrainConfigError(
                f"dataset {source.name} has no column of text called {self.column}: set text.column to one of "
                f"{', '.join(columns) or 'nothing: it is empty'}"
            )
        self.dataset = dataset.shuffle(seed=seed, buffer_size=SHUFFLED_AT_A_TIME)

    def __iter__(self) -> Iterator[str]:
        return map(self._text, self.dataset)

    def _text(self, row: Any) -> str:
        if not isinstance(row[self.column], str):
            raise TrainConfigError(f"the dataset's column {self.column} holds {row[self.column]!r}, which is no text")
        return row[self.column]
