"""The console script, and what Ctrl-C does to it: from its first moment to its last it ends in one line."""

import _thread
import os
import signal
import sys
from typing import Any

SOON = 0.05
"""Seconds until an interruption is raised again that was lost."""


class Interruption:
    """Whether Ctrl-C was pressed. An import may turn the exception into another one, and a callback loses it."""

    came = False
    at_once = True
    """Whether the process ends at once: while modules are imported, and when all is done."""

    @classmethod
    def watch(cls) -> None:
        """Take interruptions from now on, unless the process ignores them."""
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, cls._take)
            sys.unraisablehook = cls._unraisable

    @classmethod
    def _take(cls, *_: Any) -> None:
        cls.came = True
        if not cls.at_once:
            raise KeyboardInterrupt
        os.write(2, b"stopped\n")
        os._exit(130)

    @staticmethod
    def _unraisable(what: Any) -> None:
        """Raise an interruption again that came in a callback, where Python would print it and go on."""
        if what.exc_type is not None and issubclass(what.exc_type, KeyboardInterrupt):
            import threading

            timer = threading.Timer(SOON, _thread.interrupt_main)
            timer.daemon = True
            timer.start()
        else:
            sys.__unraisablehook__(what)


def is_command() -> bool:
    """Tell whether this process is the command, by how it was started.

    Returns:
        Whether it was started as `faithfulness` or as `python -m faithfulness_plugin`.
    """
    started = sys.orig_argv[1:]
    script = os.path.basename(started[0]) if started else ""
    return script in ("faithfulness", "faithfulness.exe") or started[:2] == ["-m", "faithfulness_plugin"]


def main() -> None:
    """Run the command `faithfulness`."""
    Interruption.watch()
    from faithfulness_plugin.cli.app import app

    app()
