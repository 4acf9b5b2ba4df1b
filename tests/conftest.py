from collections.abc import Callable, Iterator
from typing import Any

import jaxtyping
import pytest
import torch
from hypothesis import settings
from torch import nn

from faithfulness_plugin import StandardTrainingTranscoder, StandardTrainingTranscoderConfig

settings.register_profile("unhurried", settings(), deadline=None)  # machines are noisy: no time limits in tests
settings.load_profile("unhurried")


@pytest.fixture(autouse=True)
def _one_seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def as_installed() -> Iterator[None]:
    """Without the run-time shape checks, as users have it: they meet our errors, not the checker's."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


class Mlp(nn.Module):
    """A smooth layer whose Jacobian is not symmetric, with d_in != d_out."""

    def __init__(self, d_in: int = 5, d_hidden: int = 12, d_out: int = 4) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(d_in, d_hidden).double(), nn.Linear(d_hidden, d_out).double()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(torch.nn.functional.silu(self.up(x)))


@pytest.fixture
def mlp() -> Mlp:
    return Mlp()


@pytest.fixture
def make_transcoder() -> Callable[..., StandardTrainingTranscoder]:
    """A transcoder with random weights, biases included, in float64."""

    def make(d_in: int = 5, d_out: int = 4, d_sae: int = 12, **fields: Any) -> StandardTrainingTranscoder:
        config = StandardTrainingTranscoderConfig(d_in=d_in, d_out=d_out, d_sae=d_sae, **{"dtype": "float64", **fields})
        transcoder = StandardTrainingTranscoder(config)
        with torch.no_grad():
            transcoder.b_enc.normal_(std=0.3)
            transcoder.b_dec.normal_(std=0.3)
        return transcoder

    return make
