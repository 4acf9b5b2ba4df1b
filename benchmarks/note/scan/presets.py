"""The scans that come with the package, each a YAML file in `presets/`."""

from pathlib import Path
from typing import Any

from faithfulness_plugin.benchmarks.note.scan.spec import SpecError, read_fields, unknown

FOLDER = Path(__file__).parent / "presets"


def names() -> tuple[str, ...]:
    """All presets."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.yaml")))


def preset_fields(name: str) -> dict[str, Any]:
    """A preset's fields. Raises SpecError for one that does not exist, with the nearest that does."""
    if name not in names():
        raise SpecError(f"--preset: {unknown(name, names())}")
    return read_fields(FOLDER / f"{name}.yaml")
