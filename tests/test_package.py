import json
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from faithfulness_plugin.benchmarks.note.scan.presets import names
from faithfulness_plugin.inspection.page import SCRIPTS

ROOT = Path(__file__).resolve().parent.parent

PROBE = """
import importlib.util, json
import faithfulness_plugin, faithfulness_plugin.adapters, faithfulness_plugin.benchmarks.note.absolute_value.experiment
print(json.dumps({
    "files": [m.__file__ for m in (faithfulness_plugin, faithfulness_plugin.adapters, faithfulness_plugin.benchmarks)],
    "top": [name for name in ("adapters", "benchmarks", "tests", "oracles") if importlib.util.find_spec(name)],
    "public": faithfulness_plugin.__all__,
}))
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """An environment with the built wheel alone; its dependencies come from this one, by path."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(build, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    wheel = next(folder.glob("*.whl"))
    environment = folder / "environment"
    venv.create(environment, with_pip=False)
    python = environment / "bin" / "python"
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", str(wheel)]
    done = subprocess.run(install, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    # a path added by a .pth file does not read the .pth files there: the editable install stays unseen
    site = next(environment.glob("lib/python*/site-packages"))
    (site / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return environment


def test_the_wheel_imports_and_keeps_to_its_own_name(installed, tmp_path):
    done = subprocess.run([installed / "bin" / "python", "-c", PROBE], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert all(str(installed) in file for file in found["files"])
    assert found["top"] == []
    assert "JacobianMatching" in found["public"]


def test_the_wheel_holds_code_presets_and_the_page_only(installed):
    site = next(installed.glob("lib/python*/site-packages"))
    kinds = {path.suffix for path in (site / "faithfulness_plugin").rglob("*") if path.is_file()}
    assert kinds <= {".py", ".pyi", ".pyc", ".typed", ".yaml", ".html", ".css", ".js", ".md"}
    presets = {path.stem for path in (site / "faithfulness_plugin" / "benchmarks" / "note" / "scan").rglob("*.yaml")}
    assert presets == set(names())
    page = site / "faithfulness_plugin" / "inspection" / "page"
    assert {path.stem for path in page.glob("*.js")} == set(SCRIPTS)
    assert {path.name for path in page.iterdir() if path.suffix in (".html", ".css")} == {"page.html", "page.css"}
    assert not (site / "benchmarks").exists()
    assert (site / "faithfulness_plugin" / "py.typed").is_file()
    assert len([*site.glob("faithfulness_plugin-*.dist-info/licenses/LICENSE")]) == 1


def test_every_public_name_is_there_and_documented():
    import faithfulness_plugin

    for name in faithfulness_plugin.__all__:
        assert getattr(faithfulness_plugin, name).__doc__
