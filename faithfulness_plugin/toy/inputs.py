"""The toy problem's data: sparse uniform rows, some of them replaced by one repeated point."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from faithfulness_plugin.differences import differences
from faithfulness_plugin.display import line, short_repr
from faithfulness_plugin.errors import UsageError
from faithfulness_plugin.require import number, whole
from faithfulness_plugin.seeds import derived_seed


class AbsDraw(NamedTuple):
    """The random numbers of a batch, all U(0, 1)."""

    value: Float[Tensor, "*batch d_in"]
    present: Float[Tensor, "*batch d_in"]
    repeated: Float[Tensor, "*batch 1"]

    __repr__ = short_repr


def abs_rows(
    draw: AbsDraw, density: float | Tensor, repeat_frac: float | Tensor, point: Float[Tensor, "*many d_in"]
) -> Float[Tensor, "*batch d_in"]:
    """Return the rows of a draw: value in (-1, 1) where present < density, else 0; p where repeated < repeat_frac.

    Settings of several distributions at once broadcast against the draw.

    Args:
        draw: the batch's random numbers.
        density: the probability that a coordinate is not 0.
        repeat_frac: the probability that a row is the point.
        point: p.

    Returns:
        The rows.
    """
    x = (draw.value * 2 - 1) * (draw.present < density)
    return torch.where(draw.repeated < repeat_frac, point, x)


class AbsInputs:
    """An endless, seeded iterator of batches [batch_size, d_in]; a SAELens DataProvider.

    Each coordinate is U(-1, 1) with probability `density`, else 0. With probability `repeat_frac` the whole
    row is the point p = [1, ..., 1, 0, ..., 0] of `n_ones` ones.

    Attributes:
        point: p, [d_in].

    Raises:
        UsageError: an argument outside its range.
    """

    def __init__(
        self,
        d_in: int,
        density: float = 1.0,
        repeat_frac: float = 0.0,
        n_ones: int = 3,
        batch_size: int = 256,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        d_in, n_ones = whole("d_in", d_in), whole("n_ones", n_ones)
        batch_size = whole("batch_size", batch_size)
        for name, share in (("density", density), ("repeat_frac", repeat_frac)):
            if not 0 <= number(name, share) <= 1:
                raise UsageError(f"{name}={share} is a probability: choose it in [0, 1]")
        if not 1 <= n_ones <= d_in:
            raise UsageError(f"n_ones={n_ones} ones do not fit in d_in={d_in} coordinates: choose 1 to {d_in}")
        if batch_size < 1:
            raise UsageError(f"batch_size={batch_size}: a batch has at least one row")
        self.d_in, self.density, self.repeat_frac = d_in, density, repeat_frac
        self.n_ones, self.batch_size, self.seed = n_ones, batch_size, seed
        self.device = torch.device(device)
        self.point = torch.zeros(d_in, device=self.device)
        self.point[:n_ones] = 1.0
        self._generator = torch.Generator(self.device).manual_seed(derived_seed(seed, "inputs"))

    def __repr__(self) -> str:
        names = ("d_in", "density", "repeat_frac", "n_ones", "batch_size", "seed")
        return line("AbsInputs", {name: getattr(self, name) for name in names})

    def __iter__(self) -> "AbsInputs":
        return self

    def __next__(self) -> Float[Tensor, "batch d_in"]:
        return abs_rows(self.draw(), self.density, self.repeat_frac, self.point)

    def draw(self) -> "AbsDraw":
        """Draw the next batch's random numbers, which depend on the seed and on the batch's shape alone.

        Returns:
            The numbers that `abs_rows` makes rows of.
        """
        shape = (self.batch_size, self.d_in)
        return AbsDraw(self._uniform(*shape), self._uniform(*shape), self._uniform(self.batch_size, 1))

    def _settings(self) -> dict[str, Any]:
        names = ("d_in", "density", "repeat_frac", "n_ones", "batch_size")
        return {**{name: getattr(self, name) for name in names}, "device": self.device.type}

    def _uniform(self, *shape: int) -> Tensor:
        return torch.rand(shape, generator=self._generator, device=self.device)

    def state_dict(self) -> dict[str, Any]:
        """Return the position: after `load_state_dict` the next batch is the one that would have followed.

        Returns:
            The generator's state, and the settings that it belongs to.
        """
        return {"generator": self._generator.get_state(), "settings": self._settings()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume a stream.

        Args:
            state: what `state_dict` returned; of another seed as well, which it then replaces.

        Raises:
            ValueError: the state of other settings.
        """
        if changed := differences(state["settings"], self._settings()):
            raise ValueError(f"the saved position is of other data ({changed}): use the same settings")
        self._generator.set_state(state["generator"].cpu())
