"""The text of a run, as prompts of equal length."""

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from faithfulness_plugin.language_model.config import OFFLINE_TEXT, TextSource, TrainConfig, TrainConfigError
from faithfulness_plugin.layers.hooks import Hooks
from faithfulness_plugin.messages import one_line, say
from faithfulness_plugin.seeds import derived_seed

SHUFFLED_AT_A_TIME = 10_000  # documents of a stream


class Prompts:
    """Prompts [context_size] of tokens, as a dataset in the form that SAELens reads: rows {"tokens": [...]}.

    Documents are put one after another, a beginning-of-text token between them and at the start of every prompt, as
    SAELens does. A text at hand is cut once, and its prompts shuffled; a stream is cut on the way.

    Raises TrainConfigError, where it is cut, for token ids outside the model's vocabulary (`n_vocab`).
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
        if bos is not None:
            self._require_known(bos)
        return concat_and_batch_sequences(
            self._token_ids(), self.context_size, begin_batch_token_id=bos, sequence_separator_token_id=bos
        )

    def say_what_was_passed_by(self) -> None:
        """A line on stderr about rows of a dataset that had no text, if there were any."""
        if isinstance(self.documents, _Streamed):
            self.documents.say_what_was_passed_by()

    def _token_ids(self) -> Iterator[Tensor]:
        for document in self.documents:
            ids = self.tokenizer(document, add_special_tokens=False, verbose=False)["input_ids"]
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
    """The prompts that a config asks for.

    Args:
        hooks: the model's, which has to take such prompts.

    Raises TrainConfigError for a text that cannot be had, has no such column, or (where its length is known) is too
    short for the budget; prompts longer than the model's positions, tokens outside its vocabulary.
    """
    source, n_vocab = config.text, _vocabulary(hooks, config.context_size)
    if not source.files and source.name != OFFLINE_TEXT:
        return Prompts(_Streamed(source, config.seed), tokenizer, config.context_size, None, n_vocab)
    prompts = Prompts(_documents(source), tokenizer, config.context_size, config.seed, n_vocab)
    _require_enough(prompts, tokenizer, config)
    return prompts


def cut_prompts(
    source: TextSource,
    tokenizer: Any,
    context_size: int,
    seed: int,
    n: int,
    least: int | None = None,
    hooks: Hooks | None = None,
) -> Tensor:
    """The first n prompts [n, context_size] of a text, its order shuffled.

    Args:
        least: where fewer prompts will do, how many.
        hooks: the model's, which has to take such prompts.

    Raises TrainConfigError for a text that cannot be had, or makes too few prompts; prompts longer than the model's
    positions, tokens outside its vocabulary.
    """
    n_vocab = _vocabulary(hooks, context_size)
    at_hand = bool(source.files) or source.name == OFFLINE_TEXT
    documents = _documents(source) if at_hand else _Streamed(source, seed)
    prompts = Prompts(documents, tokenizer, context_size, seed if at_hand else None, n_vocab)
    found = list(islice(prompts, n))
    least = n if least is None else least
    if len(found) < least:
        made = f"{len(found)} prompts" if found else "no prompt"
        raise TrainConfigError(
            f"the text makes {made} of {context_size} tokens, and {least} {'is' if least == 1 else 'are'} needed: give "
            "more text, or ask for fewer or shorter prompts (context_size)"
        )
    prompts.say_what_was_passed_by()
    return torch.tensor([row["tokens"] for row in found])


def _vocabulary(hooks: Hooks | None, context_size: int) -> int | None:
    """How many tokens the model knows. Raises TrainConfigError where prompts are longer than its positions."""
    if hooks is None:
        return None
    if hooks.n_positions is not None and context_size > hooks.n_positions:
        raise TrainConfigError(
            f"context_size {context_size} is longer than the model, which has {hooks.n_positions} positions: set "
            f"context_size (--context-size) to {hooks.n_positions} or less"
        )
    return hooks.n_vocab


def _require_enough(prompts: Prompts, tokenizer: Any, config: TrainConfig) -> None:
    """Raises TrainConfigError where the training would come to the end of the text."""
    assert prompts.rows is not None
    special, first = set(config.rows.left_out(tokenizer).token_ids), config.rows.skip_first
    held_out, at_a_time = config.held_out, config.prompts_per_pass
    passes = max(0, len(prompts.rows) - held_out) // at_a_time
    there = sum(
        sum(token not in special for token in row["tokens"][first:])
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
    given = set[Path]()
    for path in found:  # prompts of a file that counts twice would be held out and trained on
        if path.resolve() in given:
            raise TrainConfigError(f"the text {path} is given twice: name every file once (--text, or text.files)")
        given.add(path.resolve())
    if not found:
        raise TrainConfigError(
            f"there is no .txt file in {', '.join(source.files)}: name text files, or folders of them (--text, or "
            "text: {files: [...]})"
        )
    documents = [_read(path) for path in found]
    if not any(document.strip() for document in documents):
        raise TrainConfigError(f"there is no text in {', '.join(source.files)}, only spaces at most: name other files")
    return documents


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")  # a byte order mark is no text
    except (OSError, UnicodeDecodeError) as error:
        raise TrainConfigError(
            f"{path} cannot be read as text ({one_line(error)}): name text files in UTF-8 (--text, or text: {{files: "
            "[...]})"
        ) from error


class _Streamed:
    """A column of a dataset on the hub, read from its start whenever iterated. Rows without text, as web dumps have
    them, are passed by."""

    def __init__(self, source: TextSource, seed: int) -> None:
        import datasets

        self.name, self.column = source.name, source.column
        self.passed_by = 0
        """Rows without text, of those that were read since it was last begun."""
        try:
            dataset = datasets.load_dataset(source.name, source.subset, split=source.split, streaming=True)
            first, columns = _first_with(dataset, source.column)
        except Exception as error:  # whatever hub, network and files make of it
            raise TrainConfigError(
                f"dataset {source.name} could not be loaded ({one_line(error)}): check name, subset, split and the "
                f"network, or use text: {{name: {OFFLINE_TEXT}}} or text: {{files: [...]}}, which need none"
            ) from error
        if not columns:
            raise TrainConfigError(f"dataset {source.name} is empty: name another, or another split")
        if source.column not in columns:
            raise TrainConfigError(f"dataset {source.name} has no column called {source.column}: {_advice(columns)}")
        if first is None:
            raise TrainConfigError(
                f"dataset {source.name} has no text in its column {source.column}, whose rows are all empty: "
                f"{_advice(columns)}"
            )
        if not isinstance(first, str):
            raise TrainConfigError(f"{self._no_text(first)}: {_advice(columns)}")
        self.dataset = dataset.shuffle(seed=seed, buffer_size=SHUFFLED_AT_A_TIME)

    def __iter__(self) -> Iterator[str]:
        self.passed_by = 0
        for row in self.dataset:
            text = row.get(self.column)
            if text is None or text == "":
                self.passed_by += 1
            elif isinstance(text, str):
                yield text
            else:
                raise TrainConfigError(f"{self._no_text(text)}: name a column of text in every row (text.column)")

    def say_what_was_passed_by(self) -> None:
        """A line on stderr, where there is anything to say."""
        if self.passed_by:
            say(f"{self.passed_by:,} rows of dataset {self.name} without text were passed by")

    def _no_text(self, value: Any) -> str:
        return f"column {self.column} of dataset {self.name} holds {repr(value)[:40]}, which is no text"


def _first_with(dataset: Any, column: str) -> tuple[Any, dict[str, Any]]:
    """What the first row that has anything in the column has there (None where none has), and the columns of the first
    rows, with a value of each."""
    columns: dict[str, Any] = {}
    for row in dataset:
        columns = {name: value if columns.get(name) in (None, "") else columns[name] for name, value in row.items()}
        if row.get(column) not in (None, "") or column not in row:
            return row.get(column), columns
    return None, columns


def _advice(columns: dict[str, Any]) -> str:
    """What to do, by what there is instead."""
    of_text = [name for name, value in columns.items() if isinstance(value, str)]
    of_tokens = [name for name, value in columns.items() if isinstance(value, list)]
    if of_text:
        return f"set text.column to one of {', '.join(of_text)}"
    if of_tokens:
        return (
            f"its columns hold tokens ({', '.join(of_tokens)}), which are another tokenizer's, or cut otherwise; name "
            "the dataset of text that they were made from"
        )
    return f"its columns are {', '.join(columns)}, none of them text"
