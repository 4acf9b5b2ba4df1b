"""The file that an interrupted ensemble resumes from."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from faithfulness_plugin.atomic import new_file
from faithfulness_plugin.differences import differences

LAYOUT = 2
"""Of what a checkpoint holds. 1: weights and optimizer states by name; 2: in one matrix."""


def save_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Write into another file, which then takes the name: a kill or a full disk leaves the checkpoint before.

    Args:
        path: the checkpoint.
        state: what to resume from, with its "settings".

    Raises:
        OSError: it cannot be written.
    """
    try:
        with new_file(path) as unfinished:
            torch.save({**state, "layout": LAYOUT}, unfinished)
    except (OSError, RuntimeError) as error:  # torch's writer raises the latter on a full disk
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise OSError(f"the checkpoint {path} cannot be written ({reason}): make room, and run it again") from error


def load_checkpoint(path: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Read a checkpoint.

    Args:
        path: the checkpoint.
        settings: those that it must have been made with.

    Returns:
        What `save_checkpoint` was given.

    Raises:
        ValueError: it is corrupt, or was made with other settings, or by a version whose checkpoints differ.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        there, layout = state["settings"], state.get("layout", 1)
    except Exception as error:  # whatever a torn file makes the reader raise
        raise ValueError(f"{path} cannot be read ({type(error).__name__}), it may be corrupt: move it away") from error
    if layout != LAYOUT:
        raise ValueError(f"{path} was made by another version: move it away, and training starts from the first step")
    if changed := differences(there, settings):
        raise ValueError(f"{path} was made with other settings ({changed}): use those, or choose another file")
    return state
