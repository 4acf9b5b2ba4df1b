"""What the measurements of this package share: spreads over rounds, and the peak memory of a fresh process.

The loop that runs arms in turn is `faithfulness_plugin.results.timing.in_turn`, which `faithfulness train` uses too.
"""

import atexit
import runpy
import subprocess
import sys
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from faithfulness_plugin.results.schema import Record
from faithfulness_plugin.results.timing import peak_memory, seconds

MIB = 2**20


class Quartiles(Record):
    """The median over rounds, with quartiles."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Quartiles":
        """Take them over these values."""
        low, median, high = np.quantile(values, [0.25, 0.5, 0.75]).tolist()
        return cls(median=median, low=low, high=high)

    def text(self, digits: int) -> str:
        """Return median (lower to upper quartile)."""
        return f"{self.median:,.{digits}f} ({self.low:,.{digits}f} to {self.high:,.{digits}f})"


def paired(numerators: Sequence[float], denominators: Sequence[float]) -> list[float]:
    """Return the ratios of two arms by round; an arm that ran in fewer rounds is paired with the first ones."""
    return [a / b for a, b in zip(numerators, denominators, strict=False)]


def ratio_range(numerators: Sequence[float], denominators: Sequence[float], digits: int) -> str:
    """Return the median of the paired ratios (least to largest)."""
    ratios = paired(numerators, denominators)
    return Quartiles(median=float(np.median(ratios)), low=min(ratios), high=max(ratios)).text(digits)


class SwiGLU(nn.Module):
    """A gated MLP under Hugging Face's names, as language models have it."""

    def __init__(self, d: int, d_mlp: int) -> None:
        super().__init__()
        self.gate_proj, self.up_proj = nn.Linear(d, d_mlp, bias=False), nn.Linear(d, d_mlp, bias=False)
        self.down_proj, self.act_fn = nn.Linear(d_mlp, d, bias=False), nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))


class ProcessCost(NamedTuple):
    """What a process took from its start to its end."""

    seconds: float
    mebibytes: float
    """At the peak: its resident memory, or what torch had allocated on a CUDA device where it used one."""


def fresh_process(module: str, *arguments: str) -> ProcessCost:
    """Run `python -m module arguments` and measure it.

    Raises:
        RuntimeError: the process failed; the message is the last line of what it wrote to stderr.
    """
    command = [sys.executable, "-W", "ignore", "-m", __name__, module, *arguments]
    outcome: list[subprocess.CompletedProcess[str]] = []
    took = seconds(lambda: outcome.append(subprocess.run(command, capture_output=True, text=True)))
    (done,) = outcome
    if done.returncode:
        raise RuntimeError(next(iter(done.stderr.strip().splitlines()[-1:]), f"exit code {done.returncode}"))
    return ProcessCost(took, float(done.stdout.splitlines()[-1]) / MIB)


def _print_peak() -> None:
    print(torch.cuda.max_memory_allocated() if torch.cuda.is_initialized() else peak_memory())


if __name__ == "__main__":
    atexit.register(_print_peak)
    sys.argv = sys.argv[1:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
