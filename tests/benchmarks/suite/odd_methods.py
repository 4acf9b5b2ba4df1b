"""More bad methods: each does at seed 2 what its name says."""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from outside_methods import Method, Transcoder
from torch import nn
from typing_extensions import override


class NanOnSomeRows(Method):
    @override
    def train(self, layer: Any, inputs: Any, *, seed: int, strength: float) -> nn.Module:
        transcoder: Any = super().train(layer, inputs, seed=seed, strength=strength)
        if seed == 2:
            decode = transcoder.decode
            transcoder.decode = lambda acts: decode(acts) if len(acts) == 8 else decode(acts) * torch.nan
        return transcoder


class IsTuple(Method):
    @override
    def train(self, layer: Any, inputs: Any, *, seed: int, strength: float) -> nn.Module:
        transcoder = super().train(layer, inputs, seed=seed, strength=strength)
        return Pair(inputs.d_in, inputs.d_out) if seed == 2 else transcoder


class Pair(Transcoder):
    @override
    def forward(self, x: torch.Tensor) -> Any:
        return super().forward(x), self.encode(x)


class ChangesTheLayer(Method):
    @override
    def train(self, layer: Any, inputs: Any, *, seed: int, strength: float) -> nn.Module:
        transcoder = super().train(layer, inputs, seed=seed, strength=strength)
        layer.W_out.zero_()
        return transcoder


class StartsAnother(Method):
    """Process, and waits for it; STARTED is the file for its number."""

    @override
    def train(self, layer: Any, inputs: Any, *, seed: int, strength: float) -> nn.Module:
        if seed == 2:
            other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
            Path(os.environ["STARTED"]).write_text(str(other.pid))
            time.sleep(600)
        return super().train(layer, inputs, seed=seed, strength=strength)


nan_on_some_rows, is_tuple, changes_the_layer, starts_another = (
    NanOnSomeRows(),
    IsTuple(),
    ChangesTheLayer(),
    StartsAnother(),
)
