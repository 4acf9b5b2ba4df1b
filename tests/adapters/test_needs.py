import importlib
import sys

import pytest

from faithfulness_plugin.adapters.needs import needs


def test_a_missing_library_is_named_with_what_to_install():
    message = r"needs nothing-there>=1, and nothing_there is missing: pip install 'nothing-there>=1'$"
    with pytest.raises(ModuleNotFoundError, match=message), needs("nothing-there>=1"):
        importlib.import_module("nothing_there")
    with pytest.raises(ModuleNotFoundError, match=r"pip install --no-deps it$"), needs("it", install="--no-deps it"):
        importlib.import_module("nothing_there")


def test_so_is_one_of_another_version_or_that_only_shares_the_name():
    with (
        pytest.raises(
            ImportError, match=r"needs it>=1, .* another package \(cannot import name .*: pip install 'it>=1'$"
        ),
        needs("it>=1"),
    ):
        exec("from json import not_there")


@pytest.mark.parametrize(
    ("adapter", "library"),
    [
        ("sparsify", "eai-sparsify>=1.3,<2"),
        ("dictionary_learning", "dictionary_learning>=0.1,<0.2"),
        ("circuit_tracer.regions", "circuit-tracer>=0.5,<0.6"),
    ],
)
def test_an_adapter_without_its_library_says_so(adapter, library, monkeypatch):
    monkeypatch.setitem(sys.modules, adapter.partition(".")[0], None)  # as if it were not installed
    monkeypatch.delitem(sys.modules, f"faithfulness_plugin.adapters.{adapter}", raising=False)
    with pytest.raises(ModuleNotFoundError, match=f"this adapter needs {library}"):
        importlib.import_module(f"faithfulness_plugin.adapters.{adapter}")
