"""What is shown of tokens, for tokenizers of every kind, is the text."""

from collections.abc import Callable
from typing import Any

import pytest
import transformers as hf
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from faithfulness_plugin.inspection.token_text import TokenText, token_texts

LATIN = "the quick brown fox jumps over the lazy dog " * 20
MIXED = LATIN + "\U0001f600\U0001f680 你好世界 привет мир مرحبا بالعالم " * 20
ODD = [
    "I feel \U0001f600\U0001f680 today",
    "你好世界",
    "مرحبا بالعالم",
    "привет",
    "x" * 200,
    "<script>alert(1)</script>",
]
ODD += [
    "a\u2028b",
    "nul\x00nul",
    "\u202eright to left\u202c",
    "marks \ufffd\ufffd stand",
    "\ufffd",
    "e\u0301 \U0001f468\u200d\U0001f469",
]


def byte_level(text: str) -> Any:
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # pyright: ignore[reportAttributeAccessIssue]
    bpe.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    letters = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        [text],
        trainers.BpeTrainer(vocab_size=330, special_tokens=["<s>"], initial_alphabet=letters, show_progress=False),
    )
    return hf.PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<s>")


def byte_fallback() -> Any:
    names = ["<unk>", "<s>", *(f"<0x{byte:02X}>" for byte in range(256)), "\u2581", *"abcdefghijklmnopqrstuvwxyz"]
    bpe = Tokenizer(
        models.BPE(vocab={n: i for i, n in enumerate(names)}, merges=[], byte_fallback=True, unk_token="<unk>")
    )
    bpe.normalizer = normalizers.Replace(" ", "\u2581")  # pyright: ignore[reportAttributeAccessIssue]
    parts = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    bpe.decoder = decoders.Sequence(parts)  # pyright: ignore[reportAttributeAccessIssue]
    return hf.PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<s>", unk_token="<unk>")


class ByHand:
    """Two bytes a token, and only its own `decode` knows how: what has neither of the known kinds of names."""

    all_special_ids = (65536,)

    def __call__(self, text: str) -> list[int]:
        data = text.encode()
        return [int.from_bytes(data[i : i + 2].ljust(2, b"\x80"), "big") for i in range(0, len(data), 2)]

    def convert_ids_to_tokens(self, token: int) -> str:
        return "<s>" if token == 65536 else f"#{token}"

    def decode(self, tokens: list[int], **_: Any) -> str:
        return b"".join(token.to_bytes(2, "big") for token in tokens).decode("utf-8", "replace")


BPE, MERGED, FALLBACK = byte_level(LATIN), byte_level(MIXED), byte_fallback()
KINDS: dict[str, tuple[Any, Callable[[str], list[int]]]] = {
    "byte-level BPE": (BPE, lambda text: BPE(text, add_special_tokens=False)["input_ids"]),
    "with merges across characters": (MERGED, lambda text: MERGED(text, add_special_tokens=False)["input_ids"]),
    "byte fallback": (FALLBACK, lambda text: FALLBACK(text, add_special_tokens=False)["input_ids"]),
}


@pytest.mark.parametrize("kind", KINDS)
@given(st.one_of(st.text(), st.lists(st.sampled_from(ODD)).map(" ".join)))
def test_what_is_shown_of_the_tokens_of_a_text_is_the_text(kind, text):
    tokenizer, ids = KINDS[kind]
    text = text.replace("\u2581", "")  # SentencePiece's space cannot be told from a space
    text = text.replace("<s>", "").replace("<unk>", "")
    tokens = ids(text)
    parts = TokenText(tokenizer).parts(tokens)
    assert "".join(parts) == text
    assert len(parts) == len(tokens)


@given(st.text(st.characters(exclude_characters="\ufffd", exclude_categories=["Cs"])))
def test_another_tokenizer_is_read_by_its_own_decode_of_growing_spans(text):
    text = text if len(text.encode()) % 2 == 0 else text + "."
    tokens = ByHand()(text)
    assert "".join(TokenText(ByHand()).parts(tokens)) == text


@pytest.mark.parametrize("kind", KINDS)
@given(st.sampled_from([t for t in ODD if "\ufffd" not in t]), st.data())
def test_no_window_shows_a_replacement_mark_that_is_not_in_the_text(kind, text, data):
    tokenizer, ids = KINDS[kind]
    tokens = ids(text)
    start = data.draw(st.integers(0, len(tokens)))
    stop = data.draw(st.integers(start, len(tokens)))
    parts = TokenText(tokenizer).parts(tokens[start:stop])
    assert "\ufffd" not in "".join(parts)


def test_a_character_stands_at_its_first_token_and_its_bytes_where_it_is_cut():
    text, tokens = TokenText(BPE), BPE("a\U0001f600b", add_special_tokens=False)["input_ids"]
    assert text.parts(tokens) == ["a", "\U0001f600", "", "", "", "b"]
    assert text.parts(tokens[:3]) == ["a", "\\xF0", "\\x9F"]
    assert text.parts(tokens[3:]) == ["\\x98", "\\x80", "b"]
    assert text(tokens[1]) == "\\xF0"


def test_special_tokens_stand_for_themselves_and_end_characters():
    tokens = BPE("\U0001f600", add_special_tokens=False)["input_ids"]
    assert TokenText(BPE).parts([0, *tokens, 0]) == ["<s>", "\U0001f600", "", "", "", "<s>"]
    assert TokenText(BPE).parts([*tokens[:2], 0, *tokens[2:]]) == ["\\xF0", "\\x9F", "<s>", "\\x98", "\\x80"]


def test_where_the_text_ends_inside_a_character_another_tokenizers_names_are_shown():
    tokens = ByHand()("ab\U0001f600")
    assert TokenText(ByHand()).parts(tokens[:2]) == ["ab", f"#{tokens[1]}"]


def test_words_are_shown_with_their_spaces():
    words = Tokenizer(models.WordLevel({"<unk>": 0, "one": 1, "two": 2}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer = hf.PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>")
    assert TokenText(tokenizer).parts([1, 2, 1]) == ["one", " two", " one"]


def test_any_function_shows_token_by_token_and_none_numbers():
    assert token_texts(lambda token: "ab"[token], [1, 0]) == ["b", "a"]
    assert token_texts(None, [1, 0]) == ["[1]", "[0]"]


class Ranks(ByHand):
    """Tokens named by their bytes, as tiktoken's ranks are."""

    def convert_ids_to_tokens(self, token: int) -> Any:
        return "<end>" if token == 65536 else token.to_bytes(2, "big")


def test_names_that_are_bytes_are_read_as_bytes_wherever_the_prompt_is_cut():
    text = Ranks()
    whole = "ab\U0001f600é".encode()
    tokens = [int.from_bytes(whole[i : i + 2], "big") for i in range(0, len(whole), 2)]
    assert TokenText(text).parts(tokens) == ["ab", "\U0001f600", "", "é"]
    assert TokenText(text).parts(tokens[2:]) == ["\\x98\\x80", "é"]


def test_a_replacement_mark_in_the_text_is_no_incomplete_character():
    pieces = Tokenizer(models.WordPiece({"[UNK]": 0, "a": 1, "\ufffd": 2, "b": 3}, unk_token="[UNK]"))
    pieces.pre_tokenizer = pre_tokenizers.BertPreTokenizer()  # pyright: ignore[reportAttributeAccessIssue]
    pieces.decoder = decoders.WordPiece(prefix="##")  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer = hf.PreTrainedTokenizerFast(tokenizer_object=pieces, unk_token="[UNK]")
    assert TokenText(tokenizer).parts([1, 2, 3, 2]) == ["a", " \ufffd", " b", " \ufffd"]
