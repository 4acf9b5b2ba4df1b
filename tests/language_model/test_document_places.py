"""Documents of prompts, against the documents themselves."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_hub

from faithfulness_plugin.language_model.config import TextSource
from faithfulness_plugin.language_model.document_places import Document, DocumentPlaces
from faithfulness_plugin.language_model.documents import read_documents
from faithfulness_plugin.language_model.text import Prompts, placed_prompts

LENGTH, BOS = 16, 0
TEXTS = [tiny_hub.document(n, seed) for seed, n in enumerate([100, 3, 0, 57, 15, 15, 40])]
NAMED = [Document(text, f"text {n}" if n % 2 else "") for n, text in enumerate(TEXTS)]


def tokenizer(bos: str | None = "<s>") -> Any:
    made = tiny_hub.tokenizer()
    made.bos_token = bos if bos is None else made.bos_token
    return made


@pytest.mark.parametrize("seed", [None, 0, 3])
@pytest.mark.parametrize("bos", [None, "<s>"])
def test_every_token_is_the_one_at_its_position_in_its_document(seed, bos):
    of = tokenizer(bos)
    prompts, places = Prompts(NAMED, of, LENGTH, seed).first(9)
    whole, _ = Prompts(NAMED, of, LENGTH, seed).first(1000)
    assert prompts == whole[:9]
    assert prompts == [row["tokens"] for row in Prompts(TEXTS, of, LENGTH, seed)][:9]
    ids = [of(text, add_special_tokens=False)["input_ids"] for text in TEXTS]
    met = set()
    for place, token in enumerate(token for prompt in prompts for token in prompt):
        found = places.at(place)
        if token == BOS and bos is not None:
            assert found is None
            continue
        assert found is not None
        document, position = found
        assert ids[document][position] == token
        met.add(document)
    assert len(met) > 1
    assert dict(places.names) == {n: f"text {n}" for n in met if n % 2}
    assert places.at(len(prompts) * LENGTH) is None  # prompts that are put behind these are of no document


def test_a_beginning_of_text_that_the_text_itself_holds_is_of_no_document():
    of, word = tokenizer(), tiny_hub.WORDS[0]
    texts = [f"{word} {word} {of.bos_token} {word}", f"{of.bos_token} {word} {word}"]
    prompts, places = Prompts(texts, of, 4, None).first(2)
    assert prompts == [[BOS, 3, 3, BOS], [BOS, 3, BOS, 3]]
    assert [places.at(p) for p in range(8)] == [None, (0, 0), (0, 1), None, None, (0, 2), None, (1, 0)]


def test_files_are_named_by_their_paths_in_the_folder(tmp_path: Path):
    (tmp_path / "deep").mkdir()
    for name in ("b.txt", "deep/a.txt"):
        (tmp_path / name).write_text(tiny_hub.document(40))
    alone = tmp_path / "alone.text"
    alone.write_text(tiny_hub.document(40))
    source = TextSource(files=[str(tmp_path), str(alone)])
    assert [document.name for document in read_documents(source)] == ["b.txt", "deep/a.txt", "alone.text"]
    tokens, places = placed_prompts(source, tokenizer(), LENGTH, 0, 100, 1)
    assert tokens.shape[1] == LENGTH
    assert set(places.names.values()) == {"b.txt", "deep/a.txt", "alone.text"}


def test_runs_are_few():
    prompts, places = Prompts(TEXTS, tokenizer(), LENGTH, 0).first(1000)
    assert isinstance(places, DocumentPlaces)
    assert len(places.begins) <= 2 * len(prompts) + 2 * len(TEXTS) + 1
    assert (np.diff(places.begins) > 0).all()
