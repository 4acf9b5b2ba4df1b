"""One page about a finished transcoder, beside its references."""

from faithfulness_plugin.errors import UsageError
from faithfulness_plugin.layers.declared_hooks import block_of
from faithfulness_plugin.measure.compare import KIND
from faithfulness_plugin.measure.report import layer_of, relative_error, scores
from faithfulness_plugin.measure.schema import ROLES, ArtifactNumbers, ArtifactResult, ChangeKind
from faithfulness_plugin.messages import listed
from faithfulness_plugin.metrics.result import Directions
from faithfulness_plugin.results.arms import arms_of_card
from faithfulness_plugin.results.card import Card
from faithfulness_plugin.results.curves import Curve, Panel
from faithfulness_plugin.results.schema import fingerprint
from faithfulness_plugin.results.tables import Table


def card(result: ArtifactResult, name: str = "", against: str = "") -> Card:
    """Build a transcoder's card: errors of responses, of Jacobians, of effects downstream; deletion curves.

    Args:
        result: the measurements.
        name: the transcoder's; may be empty where the result has one only.
        against: another transcoder of the result, drawn beside it; or empty.

    Returns:
        The card.

    Raises:
        UsageError: no such transcoder, or one that is not measured yet.
    """
    names = arms_of_card(KIND, name, against, list(result.config.transcoders))
    if unmeasured := result.config.unmeasured:
        raise UsageError(
            f"the result leaves out what a card shows ({listed(unmeasured)}): measure without --quick and "
            "--no-references, into another --out"
        )
    for of in names:
        if any(result.of(of, role) is None for role in ROLES):
            raise UsageError(f"{of} is not measured yet: run `faithfulness measure` again, which resumes")
    arms = _arms(result, *names)
    return Card(
        title=f"Faithfulness card: {names[0]}, in the place of a layer of {result.model}",
        described="Responses, Jacobian errors, effects downstream and deletion curves",
        panels=[
            _responses(result, arms, "isotropic", "Steps in random directions", "step, in rms coordinates"),
            _responses(result, arms, "difference", "Steps towards another token", "share of the way"),
            Panel(
                "Jacobian, in the layer's first directions",
                {arm: Curve(of.top, of.top_error) for arm, of in arms.items()},
                "singular directions of the layer's Jacobian",
                "relative error",
                xscale="log",
            ),
            _effects(arms, "input", "Downstream: the layer's input changed"),
            _effects(arms, "feature", "Downstream: a feature taken away"),
            Panel(
                "Deletion, less that of random features",
                {arm: Curve(of.deletion.sizes, of.deletion.excess) for arm, of in arms.items() if of.deletion},
                "features deleted",
                "share of the answer",
                xscale="log",
            ),
        ],
        n_columns=3,
        table=_table(result, arms),
        first_widths=(0.3,),
        source=fingerprint(result),
    )


def _table(result: ArtifactResult, arms: dict[str, ArtifactNumbers]) -> Table:
    """Return score by score what the transcoder has, its references, and the other transcoder."""
    layer, columns = layer_of(result), [scores(result, of) for of in arms.values()]
    rows = [[score, *(column[score] for column in columns)] for score in columns[0]]
    caption = (
        f"{result.model}, {layer.hook_in} to {layer.hook_out}; {result.config.held_out_prompts} held-out prompts, 95 % "
        "intervals over prompts (bootstrap). Errors are relative: 0 is best, 1 is what the mean does."
    )
    return Table(["score", *arms], rows, caption)


def _arms(result: ArtifactResult, name: str, against: str = "") -> dict[str, ArtifactNumbers]:
    found = {name if role == "transcoder" else role: result.of(name, role) for role in ROLES}
    if against:
        found[against] = result.of(against)
    return {arm: of for arm, of in found.items() if of is not None}


def _responses(
    result: ArtifactResult, arms: dict[str, ArtifactNumbers], along: Directions, title: str, steps: str
) -> Panel:
    whole = layer_of(result).response[along]

    def curve(of: ArtifactNumbers) -> Curve:
        each = [relative_error(*parts) for parts in zip(of.response_error[along], whole, strict=True)]
        there = [(x, error) for x, error in zip(result.config.distances, each, strict=True) if error is not None]
        mean, low, high = ([getattr(error, of) for _, error in there] for of in ("mean", "low", "high"))
        return Curve([x for x, _ in there], mean, low, high)

    return Panel(title, {arm: curve(of) for arm, of in arms.items()}, steps, "relative error of the response")


def _effects(arms: dict[str, ArtifactNumbers], kind: ChangeKind, title: str) -> Panel:
    curves = {}
    for arm, of in arms.items():
        there = [(block_of(s.stage) or 0, s.error) for s in of.effects[kind] if s.error is not None]
        curves[arm] = Curve([block for block, _ in there], [error for _, error in there])
    return Panel(title, curves, "after block", "relative error of the effect")
