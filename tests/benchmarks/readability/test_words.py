import pytest
import tiny_hub
import torch

from faithfulness_plugin.benchmarks.readability.words import (
    Word,
    chosen_words,
    n_to_fit,
    one_token_words,
    spelling_prompts,
)
from faithfulness_plugin.errors import UsageError

WORDS = tiny_hub.WORDS


class Vocabulary:
    """A tokenizer in which a leading space is part of a token, as byte-level BPE has it; all else is characters."""

    bos_token_id = 0

    def __init__(self, *pieces: str) -> None:
        self.pieces = ["<s>", *pieces]

    def __len__(self) -> int:
        return len(self.pieces)

    def convert_ids_to_tokens(self, ids):
        return [self.pieces[i] for i in ids]

    def __call__(self, text, add_special_tokens=False):
        assert not add_special_tokens
        if isinstance(text, list):
            return {"input_ids": [self(one)["input_ids"] for one in text]}
        piece = text.replace(" ", "\u0120")
        return {"input_ids": [self.pieces.index(piece)] if piece in self.pieces else [1000 + ord(c) for c in text]}


def test_words_are_one_token_with_a_space_and_of_letters():
    tokenizer = Vocabulary(
        "\u0120cat", "cat", "\u0120Cat", "\u0120c4t", "\u0120caf\u00e9", "\u0120", "dog", "\u0120x", "!"
    )
    assert one_token_words(tokenizer) == [Word(1, "cat"), Word(3, "Cat"), Word(8, "x")]
    assert [word.letter for word in one_token_words(tokenizer)] == [2, 2, 23]


def test_words_of_a_tokenizer_that_splits_at_spaces():
    assert [word.text for word in one_token_words(tiny_hub.tokenizer())] == WORDS


def test_spellings_of_a_word_stand_together_and_are_not_parted():
    words = [f"{a}{b}" for a in "abcdefgh" for b in "xyz"]
    tokenizer = Vocabulary(*(f"\u0120{of}" for word in words for of in (word, word.upper(), word.title())))
    found = chosen_words(tokenizer, 1000, seed=3)
    assert len(found) == 72
    assert all(len({word.text.lower() for word in found[n : n + 3]}) == 1 for n in range(0, 72, 3))
    assert n_to_fit(found) == 60  # four fifths are 58, within a word
    assert chosen_words(tokenizer, 1000, seed=3) == found != chosen_words(tokenizer, 1000, seed=4)
    assert chosen_words(tokenizer, 30, seed=3) == found[:30]


def test_vocabularies_without_words_are_refused():
    with pytest.raises(UsageError, match="has 1 words of one token"):
        chosen_words(Vocabulary("\u0120cat"), 100, 0)


@pytest.mark.parametrize("examples", [0, 2])
def test_every_word_is_read_once_after_its_line_begins(examples):
    words = one_token_words(tiny_hub.tokenizer())[:23]
    made = spelling_prompts(words, tiny_hub.tokenizer(), 40, examples)
    assert made.tokens[made.at_words].tolist() == [word.token for word in words]
    assert made.tokens.shape[1] <= 40
    assert (made.tokens[:, 0] == tiny_hub.tokenizer().bos_token_id).all()
    line = 1 + 4 + 1  # the word, the template's words and the letter: this tokenizer drops newlines
    first = made.at_words.int().argmax(1)
    assert set(first[:-1].tolist()) == {1 + examples * line}
    # nothing of a word's own line stands before it, and no word is an example in its own prompt
    for row, at in zip(made.tokens, made.at_words, strict=True):
        places = torch.arange(1, len(row), line)
        shown = [int(row[p]) for p in places if p < first[0] and examples]
        assert not set(shown) & set(row[at].tolist())


def test_prompts_that_hold_no_line_beyond_the_examples_are_refused():
    with pytest.raises(UsageError, match="examples=5"):
        spelling_prompts(one_token_words(tiny_hub.tokenizer()), tiny_hub.tokenizer(), 30, 5)
