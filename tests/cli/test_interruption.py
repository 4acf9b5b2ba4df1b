"""Ctrl-C while the command imports its modules, in processes that interrupt themselves at one of them."""

import signal
import subprocess
import sys

import pytest

CODE = """
import os, signal, sys
sys.orig_argv[1:] = ["bin/faithfulness"]
sys.argv = ["faithfulness", *{arguments}]

class Interrupting:
    def find_spec(self, name, *_):
        if name == {module!r}:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupting())
from faithfulness_plugin.command import main
main()
"""


def run(module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", CODE.format(module=module, arguments=list(arguments))],
        capture_output=True,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


@pytest.mark.parametrize("module", ["wrapt", "typer", "pydantic", "numpy", "torch"])
def test_it_ends_in_a_line_whatever_is_imported(module, tmp_path):
    done = run(module, "reproduce", "--quick", "--out", str(tmp_path / "out"))
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "stopped\n")
    assert not (tmp_path / "out").exists()


def test_who_ignores_it_is_not_stopped():
    code = CODE.format(module="typer", arguments=["--help"]).replace(
        "import os, signal, sys\n", "import os, signal, sys\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "reproduce" in done.stdout
