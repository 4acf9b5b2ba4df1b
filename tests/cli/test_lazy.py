import pytest
from typer.testing import CliRunner

from faithfulness_plugin.cli.lazy import Entry, LazyGroup, group

TABLE = {"other": Entry("os:getcwd", "something else")}
SOME = group(LazyGroup, TABLE, "Some.", {"speed": "experiment speed"})


@pytest.mark.parametrize("arguments", [[], ["--help"], ["a", "--rounds", "5"]])
def test_an_old_name_says_the_new_one_whatever_follows_it(arguments):
    result = CliRunner().invoke(SOME, ["speed", *arguments])
    assert result.exit_code == 2
    assert "speed is now `faithfulness experiment speed`" in result.stderr
    assert "speed" not in CliRunner().invoke(SOME, ["--help"]).output


def test_an_unknown_name_fails_with_the_nearest():
    result = CliRunner().invoke(SOME, ["othre"])
    assert result.exit_code == 2
    assert "there is no command othre: did you mean other?" in result.stderr
