"""Each token of a prompt is from a document of the text: this says which, and at which position."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from faithfulness_plugin.display import short_repr

NONE = -1
"""Stands for no document."""


class Document(str):
    """The text of a document, with the name that its source has for it.

    Args:
        text: the document's.
        name: a file's path, a title; "" where it has none.

    Example:
        >>> Document("Fellow citizens", name="1790.txt").name
        '1790.txt'
    """

    name: str

    def __new__(cls, text: str, name: str = "") -> "Document":
        made = super().__new__(cls, text)
        made.name = name
        return made


@dataclass(frozen=True)
class DocumentPlaces:
    """The documents of some prompts, as runs of tokens that follow each other in one document.

    A token's place is prompt * pos + position. Documents are numbered from 0 in the order in which the text was read.
    """

    begins: Int[np.ndarray, " runs"]
    """The place of each run's first token, ascending. The last run begins behind the last prompt."""
    documents: Int[np.ndarray, " runs"]
    """The document's number; -1 for beginning-of-text tokens, which are of none."""
    positions: Int[np.ndarray, " runs"]
    """The position of the run's first token in the document; beginning-of-text tokens do not count."""
    names: Mapping[int, str]
    """The names of these documents, of those that have one."""

    __repr__ = short_repr

    def at(self, place: int) -> tuple[int, int] | None:
        """Look a token up.

        Args:
            place: prompt * pos + position.

        Returns:
            The number of its document, and its position there; None for a token of no document.
        """
        run = int(np.searchsorted(self.begins, place, side="right")) - 1
        document = int(self.documents[run])
        return None if document == NONE else (document, int(self.positions[run]) + place - int(self.begins[run]))


class DocumentIndex:
    """Where documents begin in a text that is cut into prompts, in tokens.

    Args:
        bos: the beginning-of-text token, which is put between documents and at the start of every prompt, and does not
            count; None where there is none.
    """

    def __init__(self, bos: int | None) -> None:
        self.bos, self.n = bos, 0
        self.starts: list[int] = []
        self.names: list[str] = []

    def add(self, document: str, ids: Sequence[int]) -> None:
        """Put a document behind those before.

        Args:
            document: a `Document`, or a text without a name.
            ids: its tokens.
        """
        self.starts.append(self.n)
        self.names.append(getattr(document, "name", ""))
        self.n += self.count(ids)

    def count(self, ids: Sequence[int]) -> int:
        """Count the tokens of documents.

        Args:
            ids: tokens of a document, or of a prompt.

        Returns:
            All of them but beginning-of-text tokens.
        """
        return len(ids) if self.bos is None else sum(token != self.bos for token in ids)

    def places(self, tokens: Int[np.ndarray, "prompts pos"], before: Sequence[int]) -> DocumentPlaces:
        """Find the documents of prompts.

        No token of a document is lost where a text is cut: the tokens of a prompt are consecutive ones of the text.

        Args:
            tokens: the prompts.
            before: how many tokens of documents there are before each prompt.

        Returns:
            The documents of all tokens.
        """
        own = np.ones(tokens.shape, dtype=bool) if self.bos is None else tokens != self.bos
        # [prompts, pos]: the token's number in the text; a document without tokens begins where the next one does
        number = np.asarray(before, dtype=np.int64).reshape(-1, 1) + own.cumsum(1) - 1
        starts = np.asarray(self.starts, dtype=np.int64)
        document = np.where(own, np.searchsorted(starts, number, side="right") - 1, NONE)
        position = np.where(own, number - starts[document], 0)
        begins = np.ones(tokens.shape, dtype=bool)
        begins[:, 1:] = (document[:, 1:] != document[:, :-1]) | (document[:, 1:] == NONE)
        at = np.flatnonzero(begins)
        return DocumentPlaces(
            np.append(at, tokens.size),
            np.append(document.ravel()[at], NONE),
            np.append(position.ravel()[at], 0),
            {int(d): self.names[d] for d in np.unique(document) if d != NONE and self.names[d]},
        )
