import os

import pytest

from faithfulness_plugin.results.schema import Environment, Interval, ResultError, read_result, write_text


def test_what_is_written_is_read(tmp_path):
    value = Interval(mean=0.5, low=0.1, high=0.9, n=5)
    write_text(tmp_path / "new" / "result.json", value.model_dump_json())
    assert read_result(tmp_path / "new" / "result.json", Interval) == value
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["result.json"]


@pytest.mark.parametrize("text", ["{", "[]", '{"mean": "much", "n": 1}', '{"mean": 1, "n": 1, "more": 2}', "", "\x00"])
def test_corrupt_and_foreign_files_are_named(tmp_path, text):
    path = tmp_path / "result.json"
    path.write_text(text)
    with pytest.raises(
        ResultError, match=r"result\.json is corrupt, or not a result of this command .*: move it away"
    ) as e:
        read_result(path, Interval)
    assert "\n" not in str(e.value)


def test_a_folder_in_the_place_of_a_result_is_named(tmp_path):
    with pytest.raises(ResultError, match="cannot be read"):
        read_result(tmp_path, Interval)
    with pytest.raises(ResultError, match=r"cannot be read \(No such file .*\): pass the folder of a result"):
        read_result(tmp_path / "none.json", Interval)


def test_an_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "result.json"
    write_text(path, "old")

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["result.json"]


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ResultError, match=r"cannot be written .*: choose another --out"):
        write_text(tmp_path / "file" / "result.json", "x")


def test_the_environment_names_versions():
    here = Environment.here()
    assert here.packages["torch"].startswith("2.")
    assert here.packages["faithfulness-plugin"] != "not installed"
