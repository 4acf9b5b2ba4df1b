import sys

import pytest

from faithfulness_plugin.lazy_table import LazyTable


def test_a_value_is_imported_when_its_name_is_asked_for(monkeypatch):
    monkeypatch.delitem(sys.modules, "this", raising=False)
    table = LazyTable({"zen": "this:s", "other": "no_such_module:x"})
    assert list(table) == ["zen", "other"]
    assert "zen" in table
    assert "this" not in sys.modules
    assert isinstance(table["zen"], str)
    with pytest.raises(KeyError):
        table["nothing"]


def test_a_value_can_be_put_in_and_taken_out():
    table: LazyTable[int] = LazyTable({})
    table["one"] = 1
    assert dict(table) == {"one": 1}
    del table["one"]
    assert len(table) == 0
