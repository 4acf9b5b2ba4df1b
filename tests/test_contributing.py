"""Follow the recipes of CONTRIBUTING.md: apply their diffs to a copy of the source, and run the lines below them."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import forks
import pytest

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
RECIPES = {
    title: (diff, check)
    for title, diff, check in re.findall(
        r"^## (A new .+?)\n.*?```diff\n(.*?)```.*?```python\n(.*?)```", TEXT, re.M | re.S
    )
}

RUN = """
import json, os, sys, traceback
folder, checks = sys.argv[1:]
os.chdir(folder)
sys.path.insert(0, os.path.join(folder, "site"))
failed = {}
for title, check in json.loads(checks).items():
    try:
        exec(compile(check, title, "exec"), {})
    except BaseException:
        failed[title] = traceback.format_exc()
print("FAILED" + json.dumps(failed))
"""


@pytest.fixture(scope="module")
def failed(tmp_path_factory) -> dict[str, str]:
    """What fails of each recipe in the copy, by title; run in one process, with the packages as an install has them."""
    folder = tmp_path_factory.mktemp("copy")
    source, site = folder / "source", folder / "site"
    for part in ("faithfulness_plugin", "adapters", "benchmarks"):
        shutil.copytree(ROOT / part, source / part, ignore=shutil.ignore_patterns("results", "__pycache__"))
    # committed results are not copied, and the package of that name is
    shutil.copytree(ROOT / "faithfulness_plugin" / "results", source / "faithfulness_plugin" / "results")
    for title, (diff, _) in RECIPES.items():
        applied = subprocess.run(
            ["git", "apply", "--recount", "-"], input=diff, text=True, cwd=source, capture_output=True
        )
        assert not applied.returncode, f"{title}: {applied.stderr}"
    shutil.copytree(source / "faithfulness_plugin", site / "faithfulness_plugin")
    for part in ("adapters", "benchmarks"):
        (site / "faithfulness_plugin" / part).symlink_to(source / part)
    checks = json.dumps({title: check for title, (_, check) in RECIPES.items()})
    done = forks.run(RUN, folder, checks)
    assert "FAILED" in done.stdout, done.stderr
    return json.loads(done.stdout.rpartition("FAILED")[2])


def test_there_is_a_recipe_for_everything_that_is_one_file_and_one_registration():
    whats = ("estimator", "architecture", "format", "task", "metric", "experiment", "command")
    assert list(RECIPES) == [f"A new {what}" for what in whats]


@pytest.mark.parametrize("title", list(RECIPES))
def test_the_recipe_works(title, failed):
    assert title not in failed, failed[title]


@pytest.mark.parametrize("title", list(RECIPES))
def test_a_recipe_is_one_file_and_one_registration(title):
    diff = RECIPES[title][0]
    assert diff.count("new file mode") == 1
    assert diff.count("diff --git") == 2
