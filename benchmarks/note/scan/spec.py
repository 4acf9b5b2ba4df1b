"""What a scan trains: arms x a grid x seeds, from a YAML file or from flags."""

from collections.abc import Iterator
from functools import cached_property
from itertools import product
from math import prod
from typing import Literal

from pydantic import Field, model_validator

from faithfulness_plugin.benchmarks.note.scan.settings import Settings
from faithfulness_plugin.benchmarks.note.toy_records import EVALUATION_REPEAT, VALIDATION_SEED
from faithfulness_plugin.results.schema import Record
from faithfulness_plugin.results.settings_file import unknown_setting

Value = bool | int | float | str | None
Extra = Literal[
    "jacobian_at_point", "projection", "weights", "near_point", "masking", "spectrum", "point_circuit", "abs_score"
]

NAMES = [name for name in Settings.model_fields if name != "seed"]
MOST = 100_000


class Point(Record):
    """One transcoder's place in a scan."""

    arm: str
    values: dict[str, Value] = Field(description="of what the grid varies")
    seed: int

    def __str__(self) -> str:
        return ", ".join([self.arm, *(f"{name} {value}" for name, value in self.values.items()), f"seed {self.seed}"])


class ScanSpec(Record):
    """Every arm, at every point of the grid, with every seed."""

    name: str = "scan"
    base: dict[str, Value] = Field(default_factory=dict, description="settings that all share")
    arms: dict[str, dict[str, Value]] = Field(
        default_factory=lambda: {"all": {}}, min_length=1, description="named settings, one line of a figure each"
    )
    grid: dict[str, list[Value]] = Field(default_factory=dict, description="settings and their values")
    seeds: int = Field(default=5, ge=1, description="how many")
    first_seed: int = Field(default=0, ge=0, lt=2**61)
    log_every: int | None = Field(default=None, ge=1, description="steps between records of m, L0 and losses")
    extras: list[Extra] = Field(default_factory=list, description="what is measured beside the metrics")
    n_validation: int = Field(default=8_000, ge=100, description="rows that metrics are measured on")
    n_jacobian: int = Field(default=1_000, ge=2, description="of these, rows for exact Jacobians")
    evaluation_repeat: float = Field(
        default=EVALUATION_REPEAT,
        gt=0,
        lt=1,
        exclude_if=lambda share: share == EVALUATION_REPEAT,
        description="share of the rows that are p where circuits are looked for, whatever training had",
    )

    @model_validator(mode="after")
    def _fits(self) -> "ScanSpec":
        if self.n_points > MOST:  # before each of them is looked at
            raise ValueError(f"more than {MOST:,} transcoders in one scan: take a part of the grid")
        named = {"base": self.base, "grid": self.grid, **{f"arms.{arm}": of for arm, of in self.arms.items()}}
        for where, settings in named.items():
            for name in settings:
                if name == "seed":
                    raise ValueError(f"{where}: seeds are given by seeds and first_seed")
                if name not in NAMES:
                    raise ValueError(f"{where}: {unknown_setting(name, NAMES)}")
        for arm, settings in self.arms.items():
            if twice := set(settings) & set(self.grid):
                raise ValueError(f"arms.{arm} sets {sorted(twice)[0]}, which the grid varies: leave one of them out")
        for name, values in self.grid.items():
            if not values:
                raise ValueError(f"grid.{name} has no value, so that the grid is empty: give at least one")
            if len(set(values)) < len(values):
                raise ValueError(f"grid.{name} has a value twice: leave one of them out")
        if VALIDATION_SEED in range(self.first_seed, self.first_seed + self.seeds):
            raise ValueError(f"seed {VALIDATION_SEED} draws the validation rows: choose another first_seed")
        for point in self.cells():
            self.settings(point)
        return self

    def cells(self) -> Iterator[Point]:
        """Enumerate the points of the first seed.

        Yields:
            Each arm at each point of the grid, the grid's last setting changing fastest.
        """
        for arm in self.arms:
            for values in product(*self.grid.values()):
                yield Point(arm=arm, values=dict(zip(self.grid, values, strict=True)), seed=self.first_seed)

    @cached_property
    def points(self) -> list[Point]:
        """All, arm by arm, the grid's last setting and then the seed changing fastest."""
        seeds = range(self.first_seed, self.first_seed + self.seeds)
        return [cell.model_copy(update={"seed": seed}) for cell in self.cells() for seed in seeds]

    def settings(self, point: Point) -> Settings:
        """Build all of a point's settings.

        Args:
            point: of this scan.

        Returns:
            The base with what the arm and the grid change, and the seed.

        Raises:
            ValueError: they do not fit together.
        """
        return Settings.model_validate({**self.base, **self.arms[point.arm], **point.values, "seed": point.seed})

    @property
    def n_points(self) -> int:
        return len(self.arms) * prod(map(len, self.grid.values())) * self.seeds
