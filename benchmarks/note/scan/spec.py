"""What a scan trains: arms x a grid x seeds, from a YAML file or from flags."""

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, ValidationError, model_validator

from faithfulness_plugin.benchmarks.note.scan.settings import Settings
from faithfulness_plugin.benchmarks.note.toy_problem import VALIDATION_SEED
from faithfulness_plugin.nearest import nearest
from faithfulness_plugin.results.schema import Record

Value = bool | int | float | str | None
Extra = Literal[
    "jacobian_at_point", "projection", "weights", "near_point", "masking", "spectrum", "point_circuit", "abs_score"
]

NAMES = tuple(name for name in Settings.model_fields if name != "seed")


class SpecError(ValueError):
    """A scan that cannot be run as it is described; the message says what to do."""


class Point(Record):
    """One transcoder's place in a scan."""

    arm: str
    values: dict[str, Value] = Field(description="of what the grid varies")
    seed: int


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

    @model_validator(mode="after")
    def _fits(self) -> "ScanSpec":
        for where, names in (
            ("base", self.base),
            ("grid", self.grid),
            *((f"arms.{a}", s) for a, s in self.arms.items()),
        ):
            for name in names:
                if name == "seed":
                    raise ValueError(f"{where}: seeds are given by seeds and first_seed")
                if name not in NAMES:
                    raise ValueError(f"{where}: {unknown(name, NAMES)}")
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
        """The points of the first seed."""
        for arm in self.arms:
            for values in product(*self.grid.values()):
                yield Point(arm=arm, values=dict(zip(self.grid, values, strict=True)), seed=self.first_seed)

    @cached_property
    def points(self) -> list[Point]:
        """All, arm by arm, the grid's last setting and then the seed changing fastest."""
        seeds = range(self.first_seed, self.first_seed + self.seeds)
        return [cell.model_copy(update={"seed": seed}) for cell in self.cells() for seed in seeds]

    def settings(self, point: Point) -> Settings:
        """All of a point's settings. Raises ValueError where they do not fit together."""
        return Settings.model_validate({**self.base, **self.arms[point.arm], **point.values, "seed": point.seed})

    @property
    def n_points(self) -> int:
        cells = len(self.arms)
        for values in self.grid.values():
            cells *= len(values)
        return cells * self.seeds


def unknown(name: str, known: Sequence[str]) -> str:
    """ "there is no setting ...", with the nearest that there is."""
    return f"there is no {name!r}: {nearest(name, known)}"


MOST = 100_000


def make_spec(fields: Mapping[str, Any], source: str) -> ScanSpec:
    """The scan of these fields. Raises SpecError, in one line that names the source and the nearest valid key."""
    for name in fields:
        if name not in ScanSpec.model_fields:
            raise SpecError(f"{source}: {unknown(str(name), tuple(ScanSpec.model_fields))}")
    for name in ("base", "arms", "grid"):
        if not isinstance(fields.get(name, {}), dict):
            raise SpecError(f"{source}: {name} is no mapping: write `{name}: {{...}}`")
    for name, settings in fields.get("arms", {}).items():
        if not isinstance(settings, dict):
            raise SpecError(
                f"{source}: arms.{name} is no mapping: write `{name}: {{}}` for an arm that changes nothing"
            )
    seeds = fields.get("seeds", 5)
    size = max(1, len(fields.get("arms", {}))) * (seeds if isinstance(seeds, int) else 1)
    for values in fields.get("grid", {}).values():
        size *= max(1, len(values)) if isinstance(values, list) else 1
    if size > MOST:  # told before each of them is looked at
        raise SpecError(f"{source}: more than {MOST:,} transcoders in one scan: take a part of the grid")
    try:
        return ScanSpec.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        raise SpecError(f"{source}: {where + ': ' if where else ''}{message}") from error


def read_fields(path: Path) -> dict[str, Any]:
    """A YAML file's. Raises SpecError for one that cannot be read, or is no mapping."""
    try:
        fields = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"{path} cannot be read ({getattr(error, 'strerror', None) or 'no text'})") from error
    except yaml.YAMLError as error:
        raise SpecError(f"{path} is no YAML ({' '.join(str(error).split())})") from error
    if fields is None:
        raise SpecError(f"{path} is empty: give at least a grid, as in `grid: {{repeat_frac: [0.02, 0.05]}}`")
    if not isinstance(fields, dict):
        raise SpecError(f"{path} is no mapping: give name, base, arms, grid and seeds")
    return fields
