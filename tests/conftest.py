import gc
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import forks
import jaxtyping
import pytest
import shape_checks
import torch
import works_with
from hypothesis import settings
from joblib.externals.loky.backend import context as loky_context
from rounding_noise import rounding_noise
from torch import nn

shape_checks.install()
settings.register_profile("unhurried", settings(), deadline=None)  # machines are noisy: no time limits in tests
settings.load_profile("unhurried")


def pytest_addoption(parser: pytest.Parser) -> None:
    choices = sorted(works_with.DISTRIBUTIONS)
    parser.addoption("--works-with", choices=choices, help="write what works with this library into the results")
    # one thread by default: tensors here are small, and threads of a busy machine wait for each other
    parser.addoption("--threads", type=int, default=1, help="threads of torch")
    parser.addoption("--rounding-noise", action="store_true", help="round matrix products as other processors might")


def pytest_configure(config: pytest.Config) -> None:
    torch.set_num_threads(int(config.getoption("--threads") or 1))
    if library := config.getoption("--works-with"):
        config.pluginmanager.register(works_with.Recorder(library))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--rounding-noise"):
        for item in items:
            if mark := item.get_closest_marker("bitwise"):
                item.add_marker(pytest.mark.skip(reason=f"bit by bit: {mark.args[0]}"))


def pytest_collection_finish() -> None:
    gc.freeze()  # what is imported stays: looking through it for garbage takes half a second each time


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, Any, Any]:
    if not item.config.getoption("--rounding-noise"):
        return (yield)
    with rounding_noise(item.nodeid):
        return (yield)


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
def make_transcoder() -> Callable[..., Any]:
    """A transcoder of any architecture with random weights, biases, thresholds and skip included, in float64."""
    from oracles import random_transcoder  # imports SAELens, which tests beside transformer-lens 4 do without

    return random_transcoder


@pytest.fixture
def forking_workers(monkeypatch) -> None:
    """Worker processes fork from one in which what SAELens imports is imported already; see forks.py."""
    monkeypatch.setattr(loky_context, "_DEFAULT_START_METHOD", forks.SERVER.get_start_method())


@pytest.fixture
def own_cache(tmp_path, monkeypatch) -> Path:
    """A user's cache of the test's own."""
    monkeypatch.setenv("FAITHFULNESS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"
