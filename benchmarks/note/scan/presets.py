"""The scans that come with the package, each a YAML file in `presets/`."""

from pathlib import Path
from typing import Any

from faithfulness_plugin.benchmarks.note.scan.spec import ScanSpec
from faithfulness_plugin.errors import UsageError
from faithfulness_plugin.nearest import nearest
from faithfulness_plugin.results.settings_file import make_config, read_settings

FOLDER = Path(__file__).parent / "presets"


def names() -> tuple[str, ...]:
    """List the names of all presets.

    Returns:
        The names in alphabetical order.
    """
    return tuple(sorted(path.stem for path in FOLDER.glob("*.yaml")))


def preset_fields(name: str) -> dict[str, Any]:
    """Read a preset's fields.

    Args:
        name: the preset's.

    Returns:
        The fields of `ScanSpec` that its file sets.

    Raises:
        UsageError: there is no such preset; the message names the nearest.
    """
    if name not in names():
        raise UsageError(f"--preset: there is no preset {name}: {nearest(name, names())}")
    return read_settings(FOLDER / f"{name}.yaml")


def preset(name: str) -> ScanSpec:
    """Read a preset as it stands.

    Args:
        name: the preset's.

    Returns:
        The scan that it describes.

    Raises:
        UsageError: there is no such preset.
    """
    return make_config(preset_fields(name), name, ScanSpec)
