import pytest
import typer
from typer.testing import CliRunner

from faithfulness_plugin.cli.renamed import renamed


@pytest.mark.parametrize("arguments", [[], ["--help"], ["a", "--rounds", "5"]])
def test_an_old_name_says_the_new_one_whatever_follows_it(arguments):
    app = typer.Typer()
    app.command("other")(lambda: None)
    renamed(app, "speed", "experiment speed")
    result = CliRunner().invoke(app, ["speed", *arguments])
    assert result.exit_code == 2
    assert result.stderr == "error: this command is now `faithfulness experiment speed`\n"
    assert "speed" not in CliRunner().invoke(app, ["--help"]).output
