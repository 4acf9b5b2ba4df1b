import pytest
from counting import CountConfig, Counting

from faithfulness_plugin.results.experiment import complete
from faithfulness_plugin.results.open_or_resume import open_or_resume
from faithfulness_plugin.results.schema import ResultError


def fresh(**config):
    return Counting().fresh(CountConfig(**config))


def test_nothing_is_written_by_opening(tmp_path):
    assert open_or_resume(tmp_path, fresh()).counts == []
    assert not list(tmp_path.iterdir())


def test_other_settings_and_other_files_are_refused_unless_they_may_be_replaced(tmp_path):
    complete(Counting(), CountConfig(), tmp_path)
    with pytest.raises(ResultError, match=r"other settings \(step 1, not 2\)"):
        open_or_resume(tmp_path, fresh(step=2))
    assert open_or_resume(tmp_path, fresh(step=2), overwrite=True).counts == []
    (tmp_path / "result.json").rename(tmp_path / "mine.json")
    with pytest.raises(ResultError, match=r"is not empty and holds no result\.json"):
        open_or_resume(tmp_path, fresh())


def test_a_partial_result_of_other_versions_is_refused_and_a_complete_one_shown(tmp_path):
    result = complete(Counting(), CountConfig(), tmp_path)
    other = result.environment.model_copy(update={"packages": {"torch": "0.1"}})
    for done in (True, False):
        changed = result.model_copy(update={"environment": other, "complete": done})
        (tmp_path / "result.json").write_text(changed.model_dump_json())
        if done:
            assert open_or_resume(tmp_path, fresh()) == changed
        else:
            with pytest.raises(ResultError, match="was begun with other versions"):
                open_or_resume(tmp_path, fresh())


def test_a_folder_that_is_a_file_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ResultError, match="choose another --out"):
        open_or_resume(tmp_path / "file", fresh())
