"""What every result file has: versions, intervals, and safe reading and writing."""

import hashlib
import platform
from abc import abstractmethod
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from faithfulness_plugin import atomic
from faithfulness_plugin.display import short_repr
from faithfulness_plugin.errors import UsageError


class ResultError(UsageError):
    """A result file that cannot be used; the message says what to do."""


class Record(BaseModel):
    """Base of every record: unknown fields are refused, values are finite and do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    __repr__ = short_repr

    def every_field(self) -> dict[str, Any]:
        """Dump the record for JSON with the fields, too, that a dump leaves out where they are defaults.

        Returns:
            The fields by name, as two sets of settings are compared: a field that one of them lacked would be missed.
        """
        dumped = self.model_dump(mode="json")
        hidden = {name: getattr(self, name) for name in type(self).model_fields if name not in dumped}
        return dumped | {n: of.every_field() if isinstance(of, Record) else of for n, of in hidden.items()}


class Interval(Record):
    """A mean with its two-sided 95 % interval (Student's t)."""

    mean: float
    low: float | None = Field(description="None for a single value")
    high: float | None = Field(description="None for a single value")
    n: int
    seen: tuple[float, float] | None = Field(
        default=None,
        exclude_if=lambda seen: seen is None,
        description="the least and the largest of fewer than 5 values, which tables show in the interval's place: that "
        "of two or three can reach far beyond what a score can be",
    )

    @property
    def drawn(self) -> tuple[float, float]:
        """What figures show around the mean: what tables do, and the mean itself for a single value."""
        low, high = self.seen or (self.low, self.high)
        return self.mean if low is None else low, self.mean if high is None else high


class Share(Record):
    """A count of n with its 95 % Wilson interval."""

    count: int
    n: int
    low: float
    high: float


class Environment(Record):
    """What the numbers were made with."""

    python: str
    machine: str
    device: str
    packages: dict[str, str]

    @classmethod
    def here(cls, device: str = "cpu", packages: Sequence[str] = ()) -> "Environment":
        """Describe this process and its packages.

        Args:
            device: where the numbers are computed.
            packages: more packages whose versions are noted.

        Returns:
            The description.
        """
        names = ("faithfulness-plugin", "torch", "sae-lens", "transformer-lens", "numpy", "scipy", *packages)
        return cls(
            python=platform.python_version(),
            machine=platform.machine(),
            device=device,
            packages={name: _version(name) for name in names},
        )


class Result(Record):
    """What a command writes: all of it, or as much as was run."""

    complete: bool
    environment: Environment

    @property
    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """What a partial result and a command must share for the command to resume it."""

    def enlarged(self, fresh: Any) -> Any:
        """Return this result as the beginning of a larger one, such as one of more seeds.

        Args:
            fresh: an empty result with the settings that are wanted.

        Returns:
            The larger one with the parts that are done; None where it is no beginning of it.
        """
        del fresh
        return None


def fingerprint(result: Result) -> str:
    """Digest the whole result. Its figures carry the digest, which shows whether one is out of date.

    Args:
        result: what is digested.

    Returns:
        "sha256:" and the digest.
    """
    return "sha256:" + hashlib.sha256(result.model_dump_json().encode()).hexdigest()


T_RECORD = TypeVar("T_RECORD", bound=BaseModel)


def read_result(path: Path, schema: type[T_RECORD]) -> T_RECORD:
    """Read a record from a JSON file.

    Args:
        path: the file.
        schema: the record's class.

    Returns:
        The record.

    Raises:
        ResultError: the file is corrupt, not of this kind, of another version, or cannot be read.
    """
    try:
        return schema.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        version = next((e for e in error.errors() if e["loc"] == ("schema_version",)), None)
        if version is not None and version["type"] == "literal_error":
            expected = version.get("ctx", {}).get("expected", "another")
            raise ResultError(
                f"{path} has schema version {version['input']}, and this version of the package reads {expected}: use "
                "the version that wrote it, move it away, or choose another --out"
            ) from error
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise ResultError(
            f"{path} is corrupt, or not a result of this command ({where}: {first['msg']}): "
            "move it away, or choose another --out"
        ) from error
    except OSError as error:
        to_do = "pass the folder of a result" if isinstance(error, FileNotFoundError) else "choose another --out"
        raise ResultError(f"{path} cannot be read ({error.strerror}): {to_do}") from error


def write_text(path: Path, text: str) -> None:
    """Write a file, all or nothing.

    Args:
        path: the file.
        text: its content.

    Raises:
        ResultError: the folder cannot be written.
    """
    try:
        atomic.write_text(path, text)
    except OSError as error:
        raise ResultError(f"{path} cannot be written ({error.strerror}): choose another --out") from error


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def processor() -> str:
    """Name this machine's processor.

    Returns:
        Its model, or where that is unknown its architecture.
    """
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
