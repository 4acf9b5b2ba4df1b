"""The console script. It imports everything else itself, so that an interruption ends in one line from the start."""

import _thread
import os
import signal
import sys
import threading
from types import FrameType
from typing import Any

SOON = 0.05
"""Seconds until an interruption is raised again that was lost."""


class Interruption:
    """Whether Ctrl-C was pressed: an import may turn the exception into another one, and a callback loses it."""

    came = False

    @classmethod
    def watch(cls) -> None:
        """Note interruptions from now on, unless the process ignores them."""
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, cls._note)
            sys.unraisablehook = cls._unraisable

    @classmethod
    def _note(cls, number: int, frame: FrameType | None) -> None:
        cls.came = True
        signal.default_int_handler(number, frame)

    @staticmethod
    def _unraisable(what: Any) -> None:
        """Raise an interruption again that came in a callback, where Python would print it and go on."""
        if what.exc_type is not None and issubclass(what.exc_type, KeyboardInterrupt):
            timer = threading.Timer(SOON, _thread.interrupt_main)
            timer.daemon = True
            timer.start()
        else:
            sys.__unraisablehook__(what)


def main() -> None:
    """Run the command `faithfulness`; Ctrl-C at any moment ends in a line and the exit code 130."""
    Interruption.watch()
    try:
        from faithfulness_plugin.cli.app import app

        app()
    except SystemExit:
        raise
    except BaseException as error:
        if not Interruption.came and not isinstance(error, KeyboardInterrupt):
            raise
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        print("stopped", file=sys.stderr, flush=True)
        os._exit(130)  # what is half imported cannot be cleaned up
