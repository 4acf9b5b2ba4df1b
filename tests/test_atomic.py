from contextlib import suppress

from faithfulness_plugin.atomic import new_file, new_folder, write_text


def names(folder) -> list[str]:
    return sorted(path.name for path in folder.rglob("*"))


def test_a_file_takes_its_name_once_it_is_whole(tmp_path):
    path = tmp_path / "new" / "a.txt"
    write_text(path, "whole")
    assert (path.read_text(), path.stat().st_mode & 0o777, names(tmp_path)) == ("whole", 0o644, ["a.txt", "new"])
    with suppress(ZeroDivisionError), new_file(path) as unfinished:
        unfinished.write_text("half")
        assert unfinished.suffix == ".txt"
        raise ZeroDivisionError
    assert (path.read_text(), names(tmp_path)) == ("whole", ["a.txt", "new"])


def test_a_folder_takes_its_name_once_it_is_whole_in_the_place_of_another(tmp_path):
    (tmp_path / ".unfinished.made").mkdir()  # by a writer that was killed
    (tmp_path / ".unfinished.made" / "torn").touch()
    for content in ("first", "second"):
        with new_folder(tmp_path / "made") as unfinished:
            (unfinished / content).touch()
        assert names(tmp_path) == sorted(["made", content])
    with suppress(ZeroDivisionError), new_folder(tmp_path / "made") as unfinished:
        raise ZeroDivisionError
    assert names(tmp_path) == ["made", "second"]
