"""What `faithfulness inspect` was asked to do, whether of one layer or of a set."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from faithfulness_plugin.cli.intervening import Asked
from faithfulness_plugin.display import short_repr

if TYPE_CHECKING:
    from faithfulness_plugin.cli.inspect import InspectOptions
    from faithfulness_plugin.inspection.inspection import Inspection


@dataclass(frozen=True)
class Inspecting:
    """How transcoders are inspected, and what is written of that."""

    options: "InspectOptions"
    asked: Asked
    """The features to be changed."""
    exports: Mapping[str, Path | None]
    """Folders by the option's name; None for the others."""
    write: "Callable[[list[Inspection], Any], None]"
    """Writes the page, from inspections and what gives a token's text."""
    overwrite: bool
    """Whether exports may be replaced."""

    __repr__ = short_repr
