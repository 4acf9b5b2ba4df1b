"""What an extra brings is asked for by name where it is missing, before any work."""

import sys
from pathlib import Path

import pytest
from command_line import fails
from typer.testing import CliRunner

from faithfulness_plugin import extras
from faithfulness_plugin.cli.app import app
from faithfulness_plugin.results.html_page import self_contained
from faithfulness_plugin.results.tables import Table

PYPROJECT = Path(__file__).resolve().parent.parent / "pyproject.toml"


@pytest.mark.parametrize(
    ("module", "arguments", "extra"),
    [
        ("plotly", ["inspect", "nothing"], "inspect"),
        ("pyarrow", ["inspect", "nothing", "--records", "a.parquet"], "inspect"),
        ("statsmodels", ["report"], "bench"),
        ("markdown_it", ["bench", "card", "nothing", "--out", "a.html"], "bench"),
        ("jinja2", ["bench", "compare", "nothing", "--against", "a", "--format", "latex"], "bench"),
    ],
)
def test_a_command_says_what_to_install(monkeypatch, module, arguments, extra):
    monkeypatch.setitem(sys.modules, module, None)
    message = f"this needs {module}, which is not installed: pip install '.[{extra}]'"
    fails(CliRunner().invoke(app, arguments), 2, message)


def test_so_does_python(monkeypatch):
    for module in ("jinja2", "markdown_it"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=r"jinja2, .*\[bench\]"):
        Table(["a"], [["b"]], "c").render("latex")
    with pytest.raises(ImportError, match=r"markdown_it, .*\[bench\]"):
        self_contained("", "", {})


def test_an_install_names_the_package(monkeypatch):
    monkeypatch.setattr(extras, "CHECKOUT", False)
    named, in_a_checkout = "pip install 'faithfulness-plugin[ray]'", "pip install '.[ray]'"
    assert extras.install("ray") == f"{named} (in a checkout: {in_a_checkout})"
    monkeypatch.setattr(extras, "CHECKOUT", True)
    assert extras.install("ray") == in_a_checkout


def test_the_developers_extra_has_all_others():
    tomllib = pytest.importorskip("tomllib")  # Python 3.11
    listed = tomllib.loads(PYPROJECT.read_text())["project"]["optional-dependencies"]
    inside = " ".join(part for part in listed["dev"] if part.startswith("faithfulness-plugin["))
    assert all(name in inside for name in listed if name != "dev")


def test_what_users_install_has_a_lowest_version():
    tomllib = pytest.importorskip("tomllib")  # Python 3.11
    project = tomllib.loads(PYPROJECT.read_text())["project"]
    wanted = list(project["dependencies"])
    for name in ("inspect", "bench", "ray", "examples"):
        wanted += project["optional-dependencies"][name]
    # without one, an installer that is asked for the oldest versions takes the first that was ever published
    assert [part for part in wanted if ">=" not in part] == []
