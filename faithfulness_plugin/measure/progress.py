"""What is being measured, and how far it is: a line for each part, and the bar's place within a measurement."""

from collections.abc import Mapping, Sequence

from faithfulness_plugin.measure.config import ArtifactConfig
from faithfulness_plugin.measure.held_out import FLOOR, JACOBIANS, OWN, SPLICED, STEPS
from faithfulness_plugin.measure.schema import ROLES, Role
from faithfulness_plugin.results.experiment import Running


def roles_of(config: ArtifactConfig) -> tuple[Role, ...]:
    """List what is measured of each transcoder.

    Args:
        config: says whether it is measured beside references.

    Returns:
        The transcoder itself, and its references.
    """
    return ROLES if config.references else ROLES[:1]


def work(config: ArtifactConfig, missing: Sequence[Role]) -> dict[Role, dict[str, float]]:
    """Estimate what each part of a transcoder's measurements costs.

    Args:
        config: the numbers of prompts and rows.
        missing: what is not measured yet of it.

    Returns:
        For each of them, its parts in their order, in runs of the model on one prompt. The first one's begin with the
        runs of the spliced model that all share. Measured on the offline model; others differ, and so does the
        remaining time that is shown at first.
    """
    prompts, rows = config.spliced_prompts, config.held_out_prompts * config.jacobian_rows
    later, deletions = 0.6 * config.changed_prompts, 2 + 2 * len(config.deletion_sizes)
    steps = config.held_out_prompts * config.response_rows * 3 * len(config.distances)
    found: dict[Role, dict[str, float]] = {}
    for role in missing:
        own = role == OWN
        parts = {JACOBIANS: 8.0, FLOOR: 0.4 * rows if own else 1.0, STEPS: 1 + steps / 1000}
        parts["first directions"] = (1.2 if own else 0.2) * config.spectrum_rows
        parts["effects"] = (5 if own else 3) * later
        parts["deletion"] = 0.0 if role == "mean ablation" else deletions * later
        parts = {part: cost for part, cost in parts.items() if part not in config.left_out and cost}
        together = (1 + len(missing)) * float(prompts) if own else 0.0  # resumed runs make them once more
        found[role] = parts if found else {SPLICED: together, **parts}
    return found


class Parts:
    """Says on stderr which part of a measurement begins, and how much of it is done.

    Args:
        running: gets the lines, and the work that is done since the last result.
        named: what is measured.
        costs: its parts in their order, with their costs.
    """

    def __init__(self, running: Running, named: str, costs: Mapping[str, float]) -> None:
        self.running, self.named, self.costs = running, named, dict(costs)
        self._before, self._cost = 0.0, 0.0

    def begin(self, part: str) -> None:
        """Say that a part begins, and that those before it are done.

        Args:
            part: one of `costs`.
        """
        names = list(self.costs)
        place = names.index(part)
        self._before, self._cost = sum(self.costs[name] for name in names[:place]), self.costs[part]
        self.running.note(f"{self.named}: {part} ({place + 1} of {len(names)})")
        self.within(0.0)

    def within(self, share: float) -> None:
        """Move the bar within the part that has begun.

        Args:
            share: how much of it is done, from 0 to 1.
        """
        self.running.within(self._before + share * self._cost)
