"""The documents of a text: from files, from a dataset on the hub, or from the text that needs neither."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from faithfulness_plugin.language_model.config import OFFLINE_TEXT, TextSource, TrainConfigError
from faithfulness_plugin.language_model.document_places import Document
from faithfulness_plugin.messages import one_line, say

SHUFFLED_AT_A_TIME = 10_000  # documents of a stream


TITLES = ("title", "name", "url", "id")
"""Columns of a dataset that name its rows; the first of them that there is."""


def read_documents(source: TextSource) -> list[Document]:
    """Read the documents of text files, or of the offline text.

    Args:
        source: no dataset on the hub (see `StreamedDocuments`).

    Returns:
        The documents: a file is one, and is named by its path in the folder that was given.

    Raises:
        TrainConfigError: there is no text, a file cannot be read, or is given twice.
    """
    if not source.files:
        from faithfulness_plugin.adapters import speeches

        try:
            return speeches.documents()
        except (ValueError, ImportError) as error:
            raise TrainConfigError(str(error)) from error
    found: dict[Path, str] = {}
    given = set[Path]()
    for path, name in _files(source):  # prompts of a file that counts twice would be held out and trained on
        if path.resolve() in given:
            raise TrainConfigError(f"the text {path} is given twice: name every file once (--text, or text.files)")
        given.add(path.resolve())
        found[path] = name
    if not found:
        raise TrainConfigError(
            f"there is no .txt file in {source.title}: name text files, or folders of them (--text, or "
            "text: {files: [...]})"
        )
    documents = [Document(_read(path), name) for path, name in found.items()]
    if not any(document.strip() for document in documents):
        raise TrainConfigError(f"there is no text in {source.title}, or only spaces: name other files")
    return documents


def _files(source: TextSource) -> Iterator[tuple[Path, str]]:
    """Yield each file, and its path in the folder that was given."""
    for given in source.files:
        path = Path(given).expanduser()
        if path.is_dir():
            yield from ((file, file.relative_to(path).as_posix()) for file in sorted(path.rglob("*.txt")))
        else:
            yield path, path.name


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")  # drops a byte order mark
    except (OSError, UnicodeDecodeError) as error:
        raise TrainConfigError(
            f"{path} cannot be read as text ({one_line(error)}): name text files in UTF-8 (--text, or text: {{files: "
            "[...]})"
        ) from error


class StreamedDocuments:
    """Streams a column of a dataset on the hub, from its start whenever iterated. Rows without text, as web dumps have
    them, are skipped.

    Args:
        source: the dataset.
        seed: decides the order of its rows.

    Raises:
        TrainConfigError: no such dataset or column, or one without text.
    """

    def __init__(self, source: TextSource, seed: int) -> None:
        import datasets

        self.name, self.column = source.name, source.column
        self.skipped = 0
        """Rows without text, of those that were read since the last start."""
        try:
            dataset = datasets.load_dataset(source.name, source.subset, split=source.split, streaming=True)
            first, columns = _first_with(dataset, source.column)
        except Exception as error:  # whatever hub, network and files make of it
            raise TrainConfigError(
                f"dataset {source.name} could not be loaded ({one_line(error)}): check name, subset, split and the "
                f"network, or use text: {{name: {OFFLINE_TEXT}}} or text: {{files: [...]}}, which need none"
            ) from error
        if problem := self._problem(first, columns):
            raise TrainConfigError(problem)
        self.dataset = dataset.shuffle(seed=seed, buffer_size=SHUFFLED_AT_A_TIME)

    def __iter__(self) -> Iterator[Document]:
        self.skipped = 0
        for row in self.dataset:
            text = row.get(self.column)
            if text is None or text == "":
                self.skipped += 1
            elif isinstance(text, str):
                named = next((row[name] for name in TITLES if row.get(name) not in (None, "")), "")
                yield Document(text, str(named))
            else:
                raise TrainConfigError(f"{self._no_text(text)}: name a column of text in every row (text.column)")

    def say_skipped(self) -> None:
        """Say on stderr how many rows had no text, if any."""
        if self.skipped:
            say(f"{self.skipped:,} rows of dataset {self.name} without text were skipped")

    def _problem(self, first: Any, columns: dict[str, Any]) -> str:
        if not columns:
            return f"dataset {self.name} is empty: name another, or another split"
        if self.column not in columns:
            return f"dataset {self.name} has no column called {self.column}: {_advice(columns)}"
        if first is None:
            rows = f"its column {self.column}, whose rows are all empty"
            return f"dataset {self.name} has no text in {rows}: {_advice(columns)}"
        return "" if isinstance(first, str) else f"{self._no_text(first)}: {_advice(columns)}"

    def _no_text(self, value: Any) -> str:
        return f"column {self.column} of dataset {self.name} holds {repr(value)[:40]}, which is no text"


def _first_with(dataset: Any, column: str) -> tuple[Any, dict[str, Any]]:
    """Return the first value in the column that is not empty (None where all are), and the columns of the rows up to
    there, with a value of each."""
    columns: dict[str, Any] = {}
    for row in dataset:
        columns = {name: value if columns.get(name) in (None, "") else columns[name] for name, value in row.items()}
        if row.get(column) not in (None, "") or column not in row:
            return row.get(column), columns
    return None, columns


def _advice(columns: dict[str, Any]) -> str:
    """Suggest what to do instead, given the columns that exist."""
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
