from pathlib import Path
from typing import Any

import datasets
import pytest
import tiny_hub

from faithfulness_plugin.language_model.config import TrainConfig, TrainConfigError
from faithfulness_plugin.language_model.text import AT_A_TIME, Prompts, load_prompts, placed_prompts
from faithfulness_plugin.results.settings_file import make_config

pytestmark = pytest.mark.usefixtures("as_installed")
LENGTH, BOS = 16, 0
TOKENIZER = tiny_hub.tokenizer()
DOCUMENTS = [tiny_hub.document(n, seed) for seed, n in enumerate([100, 3, 0, 57, 40])]


def cut(documents: list[str], seed: int | None = None) -> list[list[int]]:
    return [row["tokens"] for row in Prompts(documents, TOKENIZER, LENGTH, seed)]


def config(**settings: Any) -> TrainConfig:
    return make_config({**tiny_hub.SMALL, **settings}, "here", TrainConfig)


def words(prompts: list[list[int]]) -> list[str]:
    return [tiny_hub.WORDS[i - 3] for prompt in prompts for i in prompt if i != BOS]


def refused(settings: dict[str, Any]) -> str:
    with pytest.raises(TrainConfigError) as error:
        load_prompts(config(text=settings), TOKENIZER)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_prompts_have_numbers_unless_they_come_as_a_stream(tmp_path):
    (tmp_path / "text.txt").write_text("\n".join(DOCUMENTS * 20))
    prompts = load_prompts(config(text={"files": [str(tmp_path)]}), TOKENIZER)
    rows = list(prompts)
    assert prompts[0] == rows[0]
    assert prompts[2:5] == rows[2:5]
    with pytest.raises(IndexError):
        prompts[len(rows)]
    with pytest.raises(TrainConfigError, match="prompt 0 of a stream cannot be looked up: iterate over"):
        Prompts(DOCUMENTS, TOKENIZER, LENGTH, None)[0]


def test_prompts_are_the_documents_one_after_another():
    prompts = cut(DOCUMENTS)
    assert {len(prompt) for prompt in prompts} == {LENGTH}
    assert {prompt[0] for prompt in prompts} == {BOS}
    there, read = " ".join(DOCUMENTS).split(), words(prompts)
    assert there[: len(read)] == read
    assert len(there) - len(read) < LENGTH  # a last prompt that is not full is left out
    assert sum(prompt[1:].count(BOS) for prompt in prompts) == 3  # between the four that are not empty


def test_documents_that_are_tokenised_at_once_make_the_prompts_of_a_stream_read_one_by_one():
    many = [tiny_hub.document(5 + seed, seed) for seed in range(2 * AT_A_TIME + 3)]
    assert sorted(cut(many, seed=0)) == sorted(cut(many))
    read: list[str] = []
    next(iter(Prompts((read.append(text) or text for text in many), TOKENIZER, LENGTH, None)))
    assert read == many[: len(read)]
    assert sum(len(text.split()) for text in read[:-1]) < LENGTH  # no document beyond the one that fills the prompt


def test_a_prompt_ends_where_the_document_does():
    prompts = cut([tiny_hub.document(2 * (LENGTH - 1)), tiny_hub.document(LENGTH - 1, 1)])
    assert len(prompts) == 3
    assert all(BOS not in prompt[1:] for prompt in prompts)


def test_a_seed_is_an_order_of_the_same_prompts():
    plain, shuffled = cut(DOCUMENTS), cut(DOCUMENTS, 3)
    assert shuffled != plain
    assert sorted(shuffled) == sorted(plain)
    assert shuffled == cut(DOCUMENTS, 3)
    assert shuffled != cut(DOCUMENTS, 4)


@pytest.mark.parametrize("seed", [None, 0])
def test_they_are_read_again_from_the_start(seed):
    prompts = Prompts(DOCUMENTS, TOKENIZER, LENGTH, seed)
    iterator = iter(prompts)
    next(iterator)
    assert list(prompts) == list(prompts)
    assert len(list(iterator)) == len(list(prompts)) - 1


def test_a_tokenizer_without_a_beginning_of_text_puts_none_there():
    tokenizer = tiny_hub.tokenizer()
    tokenizer.bos_token = None
    prompts = [row["tokens"] for row in Prompts(DOCUMENTS, tokenizer, LENGTH, None)]
    assert all(BOS not in prompt for prompt in prompts)
    assert {len(prompt) for prompt in prompts} == {LENGTH}


def test_files_and_folders_are_read(tmp_path):
    folder = tiny_hub.write_text(tmp_path / "text", n_files=2, n_words=900)
    (folder / "deep").mkdir()
    (folder / "deep" / "a.txt").write_text(tiny_hub.document(700, 5))
    (folder / "notes.md").write_text("zz " * 900)
    single = tmp_path / "single.text"
    single.write_text(tiny_hub.document(800, 9))
    prompts = list(load_prompts(config(text={"files": [str(folder), str(single)]}), TOKENIZER))
    texts = [path.read_text() for path in (folder / "0.txt", folder / "1.txt", folder / "deep" / "a.txt", single)]
    assert sorted(row["tokens"] for row in prompts) == sorted(cut(texts))


def test_a_text_too_short_for_the_budget_is_named_before_training(tmp_path):
    path = tmp_path / "short.txt"
    path.write_text(tiny_hub.document(20 * (LENGTH - 1)))
    message = refused({"files": [str(path)]})
    assert message.startswith("the text makes 20 prompts of 16 tokens, 240 tokens to train on after 4 held-out prompts")
    assert message.endswith("give more text, or set text: {repeat: true}")
    assert len(list(load_prompts(config(text={"files": [str(path)], "repeat": True}), TOKENIZER))) == 20


def test_a_text_too_short_to_repeat_is_named(tmp_path):
    path = tmp_path / "short.txt"
    path.write_text(tiny_hub.document(5 * (LENGTH - 1)))
    assert "the text makes 5 prompts" in refused({"files": [str(path)], "repeat": True})


def test_files_that_cannot_be_read_give_one_line(tmp_path):
    assert f"there is no .txt file in {tmp_path}: name text files, or folders" in refused({"files": [str(tmp_path)]})
    assert "missing.txt" in refused({"files": [str(tmp_path / "missing.txt")]})
    (tmp_path / "latin.txt").write_bytes("café".encode("latin-1"))
    message = refused({"files": [str(tmp_path)]})
    assert message.endswith("name text files in UTF-8 (--text, or text: {files: [...]})")


def test_the_file_that_is_not_utf8_is_named(tmp_path):
    folder = tiny_hub.write_text(tmp_path / "text")
    (folder / "latin.txt").write_bytes("café".encode("latin-1"))
    assert "latin.txt" in refused({"files": [str(folder)]})


@pytest.fixture
def stream(monkeypatch):
    """Puts a dataset in the hub's place; what it was asked for."""
    asked: list[Any] = []

    def put(columns: dict[str, list[Any]], n_rows: int = 1000) -> list[Any]:
        def load_dataset(*arguments: Any, **options: Any) -> Any:
            asked.append((arguments, options))
            return datasets.Dataset.from_dict(columns).to_iterable_dataset().take(n_rows)

        monkeypatch.setattr(datasets, "load_dataset", load_dataset)
        return asked

    return put


STREAMED = {"name": "someone/texts", "subset": "en", "split": "validation", "column": "body"}


def streamed(**settings: Any) -> list[list[int]]:
    return [row["tokens"] for row in load_prompts(config(text=STREAMED, **settings), TOKENIZER)]


def test_a_dataset_is_streamed_in_a_seeded_order(stream):
    documents = [tiny_hub.document(40, n) for n in range(30)]
    asked = stream({"body": documents, "id": list(range(30))})
    prompts = streamed()
    assert asked == [(("someone/texts", "en"), {"split": "validation", "streaming": True})]
    assert prompts == streamed()
    assert prompts != streamed(seed=1)
    assert prompts != cut(documents)
    starts = {document.split()[0] for document in documents}
    assert words(prompts)[0] in starts
    assert set(words(prompts)) <= set(" ".join(documents).split())


def test_rows_of_a_dataset_are_named_by_their_titles(stream):
    texts = {tiny_hub.document(40, n): n for n in range(30)}
    columns = {"body": list(texts), "id": list(range(30)), "title": [None, *(f"row {n}" for n in range(1, 30))]}
    stream(columns)
    prompts = load_prompts(config(text=STREAMED), TOKENIZER)
    _, places = prompts.first(10)
    read = list(prompts.documents)
    assert len(places.names) > 3
    for number, name in places.names.items():
        n = texts[read[number]]
        assert name == (f"row {n}" if n else "0")  # of a row without a title the next column


def test_a_stream_is_read_again_from_the_start(stream):
    stream({"body": [tiny_hub.document(40, n) for n in range(30)]})
    prompts = load_prompts(config(text=STREAMED), TOKENIZER)
    next(iter(prompts))
    assert list(prompts) == list(prompts)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"content": ["a"], "url": ["b"]}, "has no column called body: set text.column to one of content, url"),
        (
            {"body": [3], "url": ["b"]},
            "column body of dataset someone/texts holds 3, which is no text: set text.column",
        ),
        ({"body": [[3, 4]], "mask": [[1]]}, "holds [3, 4], which is no text: its columns hold tokens (body, mask)"),
        (
            {"body": [None, ""], "url": [None, "b"]},
            "no text in its column body, whose rows are all empty: set text.column",
        ),
        ({"id": [1]}, "has no column called body: its columns are id, none of them text"),
    ],
)
def test_a_dataset_without_the_column_names_those_it_has(stream, columns, message):
    stream(columns)
    assert message in refused(STREAMED)


def test_an_empty_dataset_is_called_empty(stream):
    stream({"body": ["a"]}, 0)
    assert refused(STREAMED) == "dataset someone/texts is empty: name another, or another split"


@pytest.mark.parametrize("first", [None, ""])
def test_rows_without_text_are_skipped_and_counted(stream, first, capsys):
    documents = [tiny_hub.document(40, n) for n in range(30)]
    stream({"body": documents})
    plain = streamed()
    stream({"body": [first, *(d for document in documents for d in (document, None, ""))]})
    prompts = load_prompts(config(text=STREAMED), TOKENIZER)
    found = [row["tokens"] for row in prompts]
    assert sorted(words(found)) == sorted(words(plain)) or len(found) == len(plain)  # in another order
    assert all(words([prompt]) for prompt in found)
    prompts.say_skipped()
    assert capsys.readouterr().err == "61 rows of dataset someone/texts without text were skipped\n"


def test_a_row_that_is_no_text_later_on_is_named(stream):
    stream({"body": [tiny_hub.document(40, n) for n in range(3)]})
    prompts = load_prompts(config(text=STREAMED), TOKENIZER)
    prompts.documents.dataset = [{"body": "ba be"}, {"body": 7}]  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(TrainConfigError, match=r"column body of dataset someone/texts holds 7, which is no text"):
        list(prompts)


class Limited:
    """The part of a model's hooks that prompts have to fit."""

    def __init__(self, n_positions: int | None, n_vocab: int) -> None:
        self.n_positions, self.n_vocab = n_positions, n_vocab


def fitting(tmp_path: Path, hooks: Any) -> Any:
    files = {"files": [str(tiny_hub.write_text(tmp_path / "text"))]}
    return load_prompts(config(text=files), TOKENIZER, hooks)


def test_a_context_longer_than_the_model_is_named_before_the_text_is_read():
    hooks: Any = Limited(LENGTH - 1, 1000)
    with pytest.raises(
        TrainConfigError, match=r"context_size 16 is longer than the model, which has 15 positions: set"
    ):
        load_prompts(config(text={"files": ["/no/such/file"]}), TOKENIZER, hooks)
    with pytest.raises(TrainConfigError, match="15 positions"):
        placed_prompts(config(text={"files": ["/no/such/file"]}).text, TOKENIZER, LENGTH, 0, 1, hooks=hooks)


def test_a_context_as_long_as_the_model_or_of_one_without_a_limit_is_read(tmp_path):
    assert fitting(tmp_path, Limited(LENGTH, tiny_hub.N_TOKENS)).rows
    assert fitting(tmp_path / "again", Limited(None, tiny_hub.N_TOKENS)).rows


def test_a_token_outside_the_models_vocabulary_is_named(tmp_path):
    with pytest.raises(
        TrainConfigError, match=r"the tokenizer makes token \d+ \('\w+'\), and the model has the tokens 0 to"
    ):
        fitting(tmp_path, Limited(None, 20))
    with pytest.raises(TrainConfigError, match="makes token 0 "):
        fitting(tmp_path / "again", Limited(None, 0))


def test_a_text_without_a_prompt_says_so(tmp_path):
    (tmp_path / "short.txt").write_text("ba be")
    with pytest.raises(
        TrainConfigError, match=r"makes no prompt of 16 tokens, and 1 is needed: give more text, or ask"
    ):
        placed_prompts(config(text={"files": [str(tmp_path)]}).text, TOKENIZER, LENGTH, 0, 9, 1)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ConnectionError("no route\nto host"), "(no route)"),
        (ConnectionError(), "(ConnectionError)"),
        (ValueError("Unknown split"), "(Unknown split)"),
    ],
)
def test_a_dataset_that_cannot_be_had_gives_one_line(monkeypatch, error, reason):
    def load_dataset(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    message = refused(STREAMED)
    assert message.startswith(f"dataset someone/texts could not be loaded {reason}: check name, subset, split")
    assert "text: {name: speeches}" in message


def test_the_speeches_that_cannot_be_had_say_what_to_do(monkeypatch):
    from faithfulness_plugin.adapters import speeches

    def documents() -> list[str]:
        raise ValueError("npm is not installed: do this")

    monkeypatch.setattr(speeches, "documents", documents)
    assert refused({}) == "npm is not installed: do this"


def test_home_is_a_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    tiny_hub.write_text(tmp_path / "text")
    assert len(list(load_prompts(config(text={"files": [str(Path("~") / "text")]}), TOKENIZER))) > 300


def test_a_file_that_is_named_twice_is_refused(tmp_path):
    folder = tiny_hub.write_text(tmp_path / "text")
    for files in ([folder / "0.txt", folder / "0.txt"], [folder, folder / ".." / "text" / "1.txt"]):
        assert "is given twice: name every file once" in refused({"files": [str(f) for f in files]})


def test_text_of_spaces_is_none_and_a_byte_order_mark_is_no_text(tmp_path):
    (tmp_path / "empty.txt").write_text(" \n\t ")
    assert f"there is no text in {tmp_path}, or only spaces" in refused({"files": [str(tmp_path)]})
    (tmp_path / "marked.txt").write_bytes(b"\xef\xbb\xbf" + tiny_hub.document(3000).encode())
    (tmp_path / "plain.txt").write_text(tiny_hub.document(3000))
    marked, plain = (
        load_prompts(config(text={"files": [str(tmp_path / name)]}), TOKENIZER) for name in ("marked.txt", "plain.txt")
    )
    assert marked.rows == plain.rows
