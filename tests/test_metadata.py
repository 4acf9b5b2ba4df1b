"""What the package says of itself is the same everywhere, and the workflows call what there is."""

import json
import re
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
PYPROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
WORKFLOWS = {path.stem: path.read_text(encoding="utf-8") for path in (ROOT / ".github" / "workflows").glob("*.yml")}
VERSION = re.findall(r'^version = "(.+)"$', PYPROJECT, flags=re.MULTILINE)


def from_yaml(text: str) -> Any:
    return yaml.safe_load(text)


def test_version_and_title_are_the_same_everywhere():
    citation = from_yaml((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    zenodo = json.loads((ROOT / ".zenodo.json").read_text(encoding="utf-8"))
    assert [citation["version"]] == VERSION
    assert zenodo["title"] == citation["title"]
    assert zenodo["license"] == citation["license"] == "MIT"
    assert [creator["name"] for creator in zenodo["creators"]] == [author["name"] for author in citation["authors"]]
    assert zenodo["related_identifiers"][0]["identifier"] == citation["references"][0]["url"]


def test_every_python_that_is_announced_is_tested():
    announced = re.findall(r'"Programming Language :: Python :: (3\.\d+)"', PYPROJECT)
    assert announced[0] == re.findall(r'requires-python = ">=(.+)"', PYPROJECT)[0]
    matrix = from_yaml(WORKFLOWS["tests"])["jobs"]["newest"]["strategy"]["matrix"]
    assert matrix["python-version"] == announced


def test_workflows_call_targets_that_there_are():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
    assert set(WORKFLOWS) == {"lint", "release", "site", "tests"}
    for text in WORKFLOWS.values():
        assert from_yaml(text)["permissions"] == {"contents": "read"}  # jobs ask for what they need beyond it
        assert set(re.findall(r"\bmake ([a-z-]+)", text)) <= targets
        assert re.findall(r"uses: (\S+)", text)
        assert all("@" in action for action in re.findall(r"uses: (\S+)", text))


def test_templates_of_issues_can_be_read():
    for path in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"):
        template = from_yaml(path.read_text(encoding="utf-8"))
        assert path.stem == "config" or {"name", "description", "body"} <= set(template)
