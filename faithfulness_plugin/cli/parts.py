"""One bar over all parts of a command, and the folder that keeps finished ones until all are."""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from faithfulness_plugin.atomic import UNFINISHED
from faithfulness_plugin.cli.terminal import Lines
from faithfulness_plugin.messages import say

ROOM = 2
"""The disk has to have room for so many times what is kept."""


@contextmanager
def resumable(out: Path, needed: float) -> Iterator[Path | None]:
    """Yield the folder beside a file where finished parts are kept until it is written; where the command ends before,
    say so.

    Args:
        out: the file.
        needed: bytes to keep, about.

    Yields:
        The folder, which need not be there yet; None where the disk has no room for it.
    """
    there = next(folder for folder in out.absolute().parents if folder.exists())
    if shutil.disk_usage(there).free < ROOM * needed:
        say(f"{there} has no room to keep finished parts ({needed / 1e9:.1f} GB): if interrupted, all are made again")
        yield None
        return
    folder = out.parent / f"{UNFINISHED}{out.name}"
    try:
        yield folder
    finally:
        if folder.exists():
            say(f"finished parts are kept in {folder}: the same command resumes")


class Parts(Lines):
    """Shows one bar over parts of known cost on a terminal, a line per part elsewhere; on stderr.

    Args:
        costs: what each part costs, by name, in any unit, in their order.
    """

    def __init__(self, costs: Mapping[str, float]) -> None:
        super().__init__(len(costs), 0, next(iter(costs)), cost=sum(costs.values()))
        self.costs, self.begun_part = dict(costs), ""

    def on_part(self, part: str, share: float) -> None:
        """Move the bar within a part; the first time a part is named, those before it are done.

        Args:
            part: one of them.
            share: how much of it is done, from 0 to 1.
        """
        if part != self.begun_part:
            names = list(self.costs)
            place, self.begun_part = names.index(part), part
            before = sum(self.costs[name] for name in names[:place])
            self.show(part, parts=place - self.done, cost=before - self.spent)
        self.within(share * self.costs[part])
