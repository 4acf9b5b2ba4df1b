"""Run commands that are refused, each in a fork of this process, and report what each loaded."""

import importlib
import json
import os
import shutil
import sys
import time

from typer.testing import CliRunner

from faithfulness_plugin.cli.app import app

HEAVY = ("torch", "sae_lens", "transformer_lens", "transformers", "matplotlib", "pandas", "scipy", "datasets")
LIGHT = (
    "benchmarks.note.absolute_value.schema",
    "benchmarks.note.page.results",
    "benchmarks.real_layers.config",
    "benchmarks.suite.spec",
    "benchmarks.timing.configs",
    "cli.checks",
    "cli.inspect",
    "language_model.result",
    "measure.schema",
)
"""Modules that are imported once, for speed."""
FULL = "full"
"""A folder whose disk has no room."""


def main() -> None:
    usage = shutil.disk_usage

    def disk_usage(path):
        return usage(path)._replace(free=10) if os.path.basename(path) == FULL else usage(path)

    shutil.disk_usage = disk_usage
    for light in LIGHT:
        importlib.import_module(f"faithfulness_plugin.{light}")
    assert not set(HEAVY) & set(sys.modules)
    for arguments in json.load(sys.stdin):
        if child := os.fork():  # each begins without what the others have loaded
            os.waitpid(child, 0)
            continue
        begun = time.monotonic()
        result = CliRunner().invoke(app, arguments)
        seconds = time.monotonic() - begun
        heavy = [name for name in HEAVY if name in sys.modules]
        print(json.dumps([result.exit_code, result.stderr, result.stdout, heavy, seconds]), flush=True)
        os._exit(0)


if __name__ == "__main__":
    main()
