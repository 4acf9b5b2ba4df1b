"""Methods as an outsider might write them, good and bad."""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn


class Transcoder(nn.Module):
    def __init__(self, d_in: int, d_out: int, d_sae: int = 20) -> None:
        super().__init__()
        self.W_enc = nn.Parameter(torch.randn(d_in, d_sae) / d_in**0.5)
        self.W_dec = nn.Parameter(torch.randn(d_sae, d_out) / d_sae**0.5)

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x @ self.W_enc)

    def decode(self, acts: torch.Tensor) -> torch.Tensor:
        return acts @ self.W_dec

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.decode(self.encode(x))


class Method:
    strengths: tuple[float, ...] = (0.1, 0.2)

    def train(self, layer: Any, inputs: Any, *, seed: int, strength: float) -> nn.Module:
        torch.manual_seed(seed)
        transcoder = Transcoder(inputs.d_in, inputs.d_out)
        optimizer = torch.optim.Adam(transcoder.parameters(), 1e-2)
        for _ in range(20):
            x = next(inputs)
            acts = transcoder.encode(x)
            loss = (transcoder.decode(acts) - layer(x)).square().sum(-1).mean() + strength * acts.sum(-1).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return transcoder


class Bad(Method):
    """Fails at seed 2 in the way it is made with."""

    def __init__(self, how: str) -> None:
        self.how = how

    def train(self, layer: Any, inputs: Any, *, seed: int, strength: float) -> nn.Module:
        transcoder: Any = super().train(layer, inputs, seed=seed, strength=strength)
        if seed != 2 and self.how != "always raises":
            return transcoder
        if "raises" in self.how:
            raise RuntimeError("no luck\nat all")
        if self.how == "is none":
            return nn.Linear(inputs.d_in, inputs.d_out)
        if self.how == "narrow":
            return Transcoder(inputs.d_in, inputs.d_out - 1)
        with torch.no_grad():
            transcoder.W_dec[0, 0] = torch.nan
        return transcoder


class NanOnSomeRows(Method):
    def train(self, layer: Any, inputs: Any, *, seed: int, strength: float) -> nn.Module:
        transcoder: Any = super().train(layer, inputs, seed=seed, strength=strength)
        if seed == 2:
            decode = transcoder.decode
            transcoder.decode = lambda acts: decode(acts) if len(acts) == 8 else decode(acts) * torch.nan
        return transcoder


class IsTuple(Method):
    def train(self, layer: Any, inputs: Any, *, seed: int, strength: float) -> nn.Module:
        transcoder = super().train(layer, inputs, seed=seed, strength=strength)
        return Pair(inputs.d_in, inputs.d_out) if seed == 2 else transcoder


class Pair(Transcoder):
    def forward(self, x: torch.Tensor) -> Any:
        return super().forward(x), self.encode(x)


class ChangesTheLayer(Method):
    def train(self, layer: Any, inputs: Any, *, seed: int, strength: float) -> nn.Module:
        transcoder = super().train(layer, inputs, seed=seed, strength=strength)
        layer.W_out.zero_()
        return transcoder


class StartsAnother(Method):
    """Starts another process and waits for it; STARTED is the file for its number."""

    def __init__(self, at: int = 2) -> None:
        self.at = at

    def train(self, layer: Any, inputs: Any, *, seed: int, strength: float) -> nn.Module:
        if seed == self.at:
            other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
            Path(os.environ["STARTED"]).write_text(str(other.pid))
            time.sleep(600)
        return super().train(layer, inputs, seed=seed, strength=strength)


class InTurn(Method):
    """Raises at seed 2, hangs at seed 3, and ends its process at seed 4."""

    def train(self, layer: Any, inputs: Any, *, seed: int, strength: float) -> nn.Module:
        if seed == 4:
            os._exit(7)
        method = {2: raises, 3: StartsAnother(at=3)}.get(seed, Method())
        return method.train(layer, inputs, seed=seed, strength=strength)


method = Method()
raises, is_none, narrow, is_nan = map(Bad, ("raises", "is none", "narrow", "is nan"))
always_raises = Bad("always raises")
one_strength = Method()
one_strength.strengths = (0.1,)
no_strengths = type("NoStrengths", (Method,), {"strengths": ()})()
no_train = object()
nan_on_some_rows, is_tuple = NanOnSomeRows(), IsTuple()
changes_the_layer, starts_another, in_turn = ChangesTheLayer(), StartsAnother(), InTurn()
