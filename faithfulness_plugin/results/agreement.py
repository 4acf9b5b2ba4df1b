"""Whether a result that is run again says the same."""

from pydantic import Field

from faithfulness_plugin.differences import differences
from faithfulness_plugin.results.schema import Environment, Record

TOLERANCE = 1e-6


class Agreement(Record):
    """Of a result and its rerun."""

    what: str = Field(description="what was run again: trials, or measurements")
    n: int = Field(description="how many of them")
    disagree: list[str] = Field(description="a line for each that does not agree")
    largest: float = Field(description="largest difference of a number")
    notes: list[str] = Field(description="what is different about this machine")


def notes(there: Environment, here: Environment) -> list[str]:
    """What may be why numbers differ."""
    found = []
    if changed := differences(there.packages, here.packages):
        found.append(f"other versions of packages ({changed})")
    if there.machine != here.machine:
        found.append(f"another kind of processor ({there.machine}, here {here.machine})")
    return found
