import importlib.util
from typing import Any

import pytest
from command_line import fails
from typer.testing import CliRunner

from faithfulness_plugin.cli.app import app

INSTALLED = importlib.util.find_spec("sparsify") is not None


def adapter(*args: str) -> Any:
    return CliRunner().invoke(app, ["bench", "adapter", *args])


def test_another_library_is_named(tmp_path):
    fails(adapter("dictionaries", "--out", str(tmp_path)), 2, "'sparsify' or 'dictionary_learning'")


def test_no_rounds_is_refused(tmp_path):
    fails(adapter("sparsify", "--rounds", "0", "--out", str(tmp_path)), 2, "rounds")


def test_no_threads_are_refused(tmp_path):
    fails(adapter("sparsify", "--threads", "0", "--out", str(tmp_path)), 2, "threads")


@pytest.mark.skipif(INSTALLED, reason="the library is there")
def test_a_missing_library_says_what_to_install_and_writes_nothing(tmp_path):
    fails(adapter("sparsify", "--out", str(tmp_path / "out")), 1, "pip install 'eai-sparsify")
    assert not (tmp_path / "out").exists()
