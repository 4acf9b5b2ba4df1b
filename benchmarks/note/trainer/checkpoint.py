"""The file that an interrupted ensemble resumes from."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from faithfulness_plugin.atomic import new_file
from faithfulness_plugin.differences import differences


def save_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Write into another file, which then takes the name: a kill or a full disk leaves the checkpoint before.

    Raises OSError where it cannot be written."""
    try:
        with new_file(path) as unfinished:
            torch.save(state, unfinished)
    except (OSError, RuntimeError) as error:  # torch's writer raises the latter on a full disk
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise OSError(f"the checkpoint {path} cannot be written ({reason}): make room, and run it again") from error


def load_checkpoint(path: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Read a checkpoint. Raises ValueError for one that is corrupt, or was made with other settings."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        there = state["settings"]
    except Exception as error:  # whatever a torn file makes the reader raise
        raise ValueError(f"{path} cannot be read ({type(error).__name__}), it may be corrupt: move it away") from error
    if changed := differences(there, settings):
        raise ValueError(f"{path} was made with other settings ({changed}): use those, or choose another file")
    return state
