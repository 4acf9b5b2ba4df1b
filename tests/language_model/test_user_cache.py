import os
from pathlib import Path

import pytest

from faithfulness_plugin.language_model import user_cache
from faithfulness_plugin.language_model.user_cache import cache, cached_folder


@pytest.mark.parametrize("before", [None, "outdated"])
def test_of_two_that_make_it_at_once_the_first_stays(own_cache, before):
    if before:
        cached_folder("x", {"version": "0"}, lambda path: None)

    def write(path: Path, text: str) -> None:
        (path / "file").write_text(text)

    def slow(path: Path) -> None:
        cached_folder("x", {"version": "1"}, lambda path: write(path, "first"))
        write(path, "later")

    path = cached_folder("x", {"version": "1"}, slow)
    assert (path / "file").read_text() == "first"
    assert list(own_cache.iterdir()) == [path]


def test_a_rename_that_fails_is_no_endless_loop(own_cache, monkeypatch):
    def refused(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "replace", refused)
    with pytest.raises(ValueError, match="Permission denied"):
        cached_folder("x", {}, lambda path: None)


def test_the_cache_is_the_users(monkeypatch):
    monkeypatch.delenv("FAITHFULNESS_CACHE", raising=False)
    assert cache().name == "faithfulness-plugin"
    monkeypatch.setenv("FAITHFULNESS_CACHE", "~/x")
    assert cache() == Path.home() / "x"
    monkeypatch.delenv("FAITHFULNESS_CACHE")
    monkeypatch.setattr(user_cache, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"platformdirs is not installed: .*; or set FAITHFULNESS_CACHE"):
        cache()
