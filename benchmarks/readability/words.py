"""Words that are one token, and prompts that spell their first letters."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from faithfulness_plugin.errors import UsageError
from faithfulness_plugin.seeds import derived_seed

TEMPLATE = " has the first letter:"
"""What follows a word, and its letter after that."""
SPACES = "\u0120\u2581"
"""How vocabularies write a leading space: byte-level BPE and SentencePiece."""
FIT_SHARE = 0.8


@dataclass(frozen=True)
class Word:
    """A word of one token."""

    token: int
    text: str

    @property
    def letter(self) -> int:
        """The number of its first letter, from 0 to 25."""
        return ord(self.text[0].lower()) - ord("a")


@dataclass(frozen=True)
class SpellingPrompts:
    """Prompts in which words follow each other, each with its first letter."""

    tokens: Int[Tensor, "prompts pos"]
    at_words: Bool[Tensor, "prompts pos"]
    """The tokens at which the words are read; row by row they are those of `words`."""
    words: Sequence[Word]


def one_token_words(tokenizer: Any) -> list[Word]:
    """List the words that are a single token with a space before them, of the letters a to z in either case.

    Args:
        tokenizer: the model's.

    Returns:
        The words, by token.
    """
    pieces = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    found = []
    for token, piece in enumerate(pieces):
        text = piece[1:] if isinstance(piece, str) and piece[:1] in SPACES else piece
        if isinstance(text, str) and text.isascii() and text.isalpha():
            found.append(Word(token, text))
    if not found:
        return []
    ids = tokenizer([f" {word.text}" for word in found], add_special_tokens=False)["input_ids"]
    return [word for word, own in zip(found, ids, strict=True) if own == [word.token]]


def chosen_words(tokenizer: Any, n: int, seed: int) -> list[Word]:
    """Draw words in a random order, which is the same for the same seed.

    Spellings of one word (in capitals, say) stand together, so that a split into words to fit and to test on parts
    none of them.

    Args:
        tokenizer: the model's.
        n: how many; all where there are fewer.
        seed: decides the order.

    Returns:
        The words.

    Raises:
        UsageError: a vocabulary with fewer than 20 such words.
    """
    spelled: dict[str, list[Word]] = {}
    for word in one_token_words(tokenizer):
        spelled.setdefault(word.text.lower(), []).append(word)
    generator = torch.Generator().manual_seed(derived_seed(seed, "words to spell"))
    each = sorted(spelled.items())
    words = [word for i in torch.randperm(len(each), generator=generator).tolist() for word in each[i][1]][:n]
    if len(words) < 20:
        raise UsageError(
            f"the vocabulary has {len(words)} words of one token (letters a to z, with a space before them), and 20 "
            "are needed for first letters: use a model with an English vocabulary"
        )
    return words


def spelling_prompts(words: Sequence[Word], tokenizer: Any, context_size: int, examples: int) -> SpellingPrompts:
    """Build prompts that spell first letters: lines "cat has the first letter: C", word after word.

    SAEBench runs the model once for each word, after ten other lines; here a prompt is filled with lines, and each of
    its words is read after those before it, which takes a tenth of the tokens. What follows a word does not reach it.

    Args:
        words: each is read once.
        tokenizer: the model's.
        context_size: tokens of a prompt at most.
        examples: the lines that each prompt begins with, whose words are not read there.

    Returns:
        The prompts, of equal length: shorter ones are filled up at the end.

    Raises:
        UsageError: a prompt is too short for a line more than the examples.
    """

    def ids(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    start, newline, template = [], ids("\n"), ids(TEMPLATE)
    if tokenizer.bos_token_id is not None:
        start = [tokenizer.bos_token_id]
    lines = [[*newline, word.token, *template, *ids(" " + chr(ord("A") + word.letter))] for word in words]
    longest = max(map(len, lines))
    per_prompt = (context_size - len(start)) // longest - examples
    if per_prompt < 1:
        raise UsageError(
            f"examples={examples}: lines of {longest} tokens do not fit prompts of {context_size}: pass fewer examples"
        )
    prompts, places = [], []
    for first in range(0, len(words), per_prompt):
        own = range(first, min(first + per_prompt, len(words)))
        # the words that follow in the list, so that no word is an example of its own prompt
        shown = [(own.stop + n) % len(words) for n in range(min(examples, len(words) - len(own)))]
        prompt, at = list(start), []
        for n in [*shown, *own]:
            if n in own:
                at.append(len(prompt) + len(newline))
            prompt += lines[n]
        prompts.append(prompt)
        places.append(at)
    length = max(map(len, prompts))
    tokens = torch.tensor([[*prompt, *[prompt[0]] * (length - len(prompt))] for prompt in prompts])
    at_words = torch.zeros_like(tokens, dtype=torch.bool)
    for row, at in enumerate(places):
        at_words[row, at] = True
    return SpellingPrompts(tokens, at_words, list(words))


def n_to_fit(words: Sequence[Word]) -> int:
    """Count the words to fit on, which come first: four fifths, and never one spelling of a word without the others.

    Args:
        words: in the order of `chosen_words`.

    Returns:
        How many.
    """
    n = round(FIT_SHARE * len(words))
    while n < len(words) and words[n].text.lower() == words[n - 1].text.lower():
        n += 1
    return n
