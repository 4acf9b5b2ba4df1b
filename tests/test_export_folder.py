"""Where exports may be written."""

import re
from typing import Any

import pytest

from faithfulness_plugin.errors import UsageError
from faithfulness_plugin.export_folder import ExportKind, require_place

CARDS = ExportKind(
    "cards", r"owner|cards/\d+", lambda folder: (folder / "owner").read_text() if (folder / "owner").exists() else None
)


def test_an_empty_folder_or_none_will_do(tmp_path):
    require_place(tmp_path, CARDS)
    (tmp_path / "cards").mkdir()
    require_place(tmp_path, CARDS)
    require_place(tmp_path / "none", CARDS)


def test_another_owners_files_are_named_and_replaced_on_request_alone(tmp_path):
    (tmp_path / "owner").write_text("layer 3")
    (tmp_path / "cards").mkdir()
    (tmp_path / "cards" / "0").touch()
    message = rf"{re.escape(str(tmp_path))} is not empty: it holds cards of layer 3; choose .* overwrite=True \(--over"
    for joins in (None, "layer 4"):
        with pytest.raises(UsageError, match=message):
            require_place(tmp_path, CARDS, joins=joins)
    require_place(tmp_path, CARDS, joins="layer 3")
    require_place(tmp_path, CARDS, overwrite=True)


@pytest.mark.parametrize("other", ["thesis.tex", "cards/0.bak", "deeper/owner", ".hidden"])
def test_other_files_are_never_replaced(other, tmp_path):
    (tmp_path / "owner").write_text("layer 3")
    (tmp_path / other).parent.mkdir(exist_ok=True)
    (tmp_path / other).touch()
    every: list[dict[str, Any]] = [{}, {"overwrite": True}, {"joins": "layer 3"}]
    for options in every:
        with pytest.raises(UsageError, match=rf"it holds {re.escape(other)}, which is none of cards; choose another"):
            require_place(tmp_path, CARDS, **options)


def test_files_that_say_no_owner_are_another_kinds(tmp_path):
    (tmp_path / "cards").mkdir()
    (tmp_path / "cards" / "7").touch()
    with pytest.raises(UsageError, match="it holds cards/7, which is none of cards"):
        require_place(tmp_path, CARDS, overwrite=True)


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="is a file: choose another name for cards"):
        require_place(tmp_path / "file", CARDS, overwrite=True)
