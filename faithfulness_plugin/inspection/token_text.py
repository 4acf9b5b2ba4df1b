"""Tokens shown as the text that they are parts of: a character of several tokens as that character."""

from collections.abc import Callable, Sequence
from typing import Any

from faithfulness_plugin.display import line

REPLACEMENT = "\ufffd"
SPACE = "\u2581"
"""What SentencePiece writes for a space."""


class TokenText:
    """Show each token of a prompt as text. The parts of a prompt, joined, are its text.

    Tokens of byte-level BPE (GPT-2, Llama 3, Qwen) and of SentencePiece's byte fallback (<0xF0>) hold bytes, and a
    character outside the commonest ones has several. Such a character is shown whole, at the token that holds its first
    byte, and nothing at the tokens that only continue it. Bytes that make no character (a prompt that is cut in the
    middle of one) are shown as \\xF0, and never as the replacement mark U+FFFD, unless that stands in the text.

    Args:
        tokenizer: of the transformers library. Tokens of other kinds are shown by its own `decode`, of growing spans.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self._special = {int(t): str(s) for t, s in _added_tokens(tokenizer).items()}
        self._bytes: dict[int, bytes | None] = {}
        decoder = repr(getattr(getattr(tokenizer, "backend_tokenizer", None), "decoder", None))
        self._byte_level = "ByteLevel" in decoder or hasattr(tokenizer, "byte_decoder")
        self._holds_bytes = self._byte_level or "ByteFallback" in decoder

    def __repr__(self) -> str:
        return line("TokenText", {"tokenizer": type(self.tokenizer)})

    def __call__(self, token: int) -> str:
        """Return the text of a token alone, incomplete characters as bytes."""
        return "".join(self.parts([token]))

    def parts(self, tokens: Sequence[int]) -> list[str]:
        """Show each token of a prompt as text.

        Args:
            tokens: token ids of one prompt.

        Returns:
            One text a token; "" for tokens that only continue a character.
        """
        tokens = [int(token) for token in tokens]
        parts: list[str] = []
        start = 0
        for place, token in enumerate([*tokens, None]):
            if token is not None and token not in self._special:
                continue
            if start < place:
                parts += self._between_special(tokens[start:place])
            if token is not None:
                parts.append(self._special[token])
            start = place + 1
        return parts

    def _between_special(self, tokens: list[int]) -> list[str]:
        """Read the tokens' bytes where these are what the tokenizer's own decoder makes of them."""
        held = [self._bytes_of(token) for token in tokens]
        if all(of is not None for of in held):
            whole = b"".join(of for of in held if of is not None)
            ours, theirs = whole.decode("utf-8", "replace"), self._decoded(tokens)
            # with an incomplete character, decoders make marks of more or fewer bytes than Python does
            if ours.lstrip(" ") == theirs.lstrip(" ") or (self._holds_bytes and REPLACEMENT in ours):
                return _characters(held)  # pyright: ignore[reportArgumentType]  none of them is None
        return self._by_growing_spans(tokens)

    def _bytes_of(self, token: int) -> bytes | None:
        """Return the bytes that a token stands for; None where its name does not say."""
        if token not in self._bytes:
            name = self.tokenizer.convert_ids_to_tokens(token)
            is_text = isinstance(name, str)
            self._bytes[token] = self._bytes_of_name(name) if is_text else name if isinstance(name, bytes) else None
            self._holds_bytes |= isinstance(name, bytes)  # as tiktoken's ranks are
        return self._bytes[token]

    def _bytes_of_name(self, name: str) -> bytes | None:
        if self._byte_level:
            return bytes(BYTES[char] for char in name) if all(char in BYTES for char in name) else None
        if len(name) == 6 and name.startswith("<0x") and name.endswith(">"):
            return bytes([int(name[3:5], 16)])
        return name.replace(SPACE, " ").encode()

    def _decoded(self, tokens: Sequence[int]) -> str:
        return self.tokenizer.decode(list(tokens), skip_special_tokens=False, clean_up_tokenization_spaces=False)

    def _by_growing_spans(self, tokens: list[int]) -> list[str]:
        """Show each token as what it adds to the text of those before it; tokens whose text ends in an incomplete
        character are put together with the next ones, and shown at the first of them."""
        parts = [""] * len(tokens)
        before, begun = 0, 0
        for stop in range(1, len(tokens) + 1):
            context, longer = self._decoded(tokens[before:begun]), self._decoded(tokens[before:stop])
            last = str(self.tokenizer.convert_ids_to_tokens(tokens[stop - 1]))  # U+FFFD may stand in the text itself
            incomplete = longer.endswith(REPLACEMENT) and REPLACEMENT not in last
            if incomplete and stop < len(tokens):
                continue
            added = longer[len(context) :] if longer.startswith(context) else longer
            if incomplete and REPLACEMENT in added:  # the prompt ends in the middle of a character
                added = "".join(str(self.tokenizer.convert_ids_to_tokens(t)) for t in tokens[begun:stop])
            parts[begun] = added
            before, begun = begun, stop
        return parts


def token_texts(token_text: Callable[[int], str] | None, tokens: Sequence[int]) -> list[str]:
    """Show each token of a prompt as text.

    Args:
        token_text: a `TokenText`, which sees the whole prompt; or a function from one token id to its text; None shows
            numbers.
        tokens: token ids of one prompt.

    Returns:
        One text a token.
    """
    if isinstance(token_text, TokenText):
        return token_text.parts(tokens)
    return [f"[{token}]" if token_text is None else token_text(int(token)) for token in tokens]


def _characters(held: Sequence[bytes]) -> list[str]:
    """Decode tokens' bytes: each character at the token that holds its first byte, bytes of none as \\xF0."""
    whole = b"".join(held)
    of = [token for token, part in enumerate(held) for _ in part]
    parts = [""] * len(held)
    place = 0
    while place < len(whole):
        length = _length(whole[place])
        try:
            char = whole[place : place + length].decode("utf-8")
        except UnicodeDecodeError:
            char, length = f"\\x{whole[place]:02X}", 1
        parts[of[place]] += char
        place += length
    return parts


def _length(first: int) -> int:
    """Return how many bytes the character has that begins with this one."""
    return 1 if first < 0xC0 else 2 if first < 0xE0 else 3 if first < 0xF0 else 4


def _added_tokens(tokenizer: Any) -> dict[int, Any]:
    """Return the tokens that stand for themselves, such as <s>."""
    found = dict(getattr(tokenizer, "added_tokens_decoder", None) or {})
    for token in getattr(tokenizer, "all_special_ids", []):
        found.setdefault(token, tokenizer.convert_ids_to_tokens(token))
    return found


def _gpt2_letters() -> dict[str, int]:
    """Return the byte that each letter stands for: printable ones for themselves, others for letters from U+0100 on.

    Source: A. Radford et al., GPT-2, encoder.py, bytes_to_unicode.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(0x100) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + i): byte for i, byte in enumerate(others)}


BYTES = _gpt2_letters()
