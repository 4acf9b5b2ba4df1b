"""What tests of the commands share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml


def fails(result: Any, code: int, message: str) -> None:
    """A command told its user what is wrong: one clear line, and no traceback."""
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    assert result.stderr.count("error: ") == 1
    told = result.stderr.rsplit("error: ", 1)[1]
    assert message in told
    assert len(told.splitlines()) == 1


def settings_file(path: Path, settings: dict[str, Any]) -> Callable[..., str]:
    """Writes a file of settings, changed or left out (None); returns its path."""

    def write(**changed: Any) -> str:
        path.write_text(yaml.safe_dump({k: v for k, v in {**settings, **changed}.items() if v is not None}))
        return str(path)

    return write
