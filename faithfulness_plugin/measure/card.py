"""One page about a finished transcoder, beside its references."""

from pathlib import Path

from matplotlib.figure import Figure

from faithfulness_plugin.layers.declared_hooks import block_of
from faithfulness_plugin.measure.report import layer_of, relative_error, scores
from faithfulness_plugin.measure.schema import ROLES, ArtifactNumbers, ArtifactResult, ChangeKind, Directions
from faithfulness_plugin.nearest import nearest
from faithfulness_plugin.results.card_page import CardError, page_figure, write_page
from faithfulness_plugin.results.curves import Curve, Panel
from faithfulness_plugin.results.schema import fingerprint
from faithfulness_plugin.results.tables import Table


def write_card(result: ArtifactResult, name: str, against: str, path: Path) -> None:
    """Writes the page in the format that the file's name ends in, all or nothing.

    Args:
        name: a transcoder; may be empty where the result has one only.
        against: another transcoder of the result, drawn beside it; or empty.

    Raises:
        CardError: no such transcoder, one that is not measured yet, or no such format.
        ResultError: the file cannot be written.
    """
    names = list(result.config.transcoders)
    if not name and len(names) > 1:
        raise CardError(f"the result holds {len(names)} transcoders: pass --method, such as {names[0]}")
    name = name or names[0]
    for of in (name, *([against] if against else [])):
        if of not in names:
            raise CardError(f"the result has no transcoder {of!r}: {nearest(of, names, n=3)}")
        if any(result.of(of, role) is None for role in ROLES):
            raise CardError(f"{of} is not measured yet: run `faithfulness measure` again, which resumes")
    write_page(
        path,
        _title(result, name),
        lambda with_table: card_figure(result, name, against, with_table=with_table),
        card_table(result, name, against),
        described="Responses, Jacobian errors, effects downstream and deletion curves",
        source=fingerprint(result),
    )


def card_table(result: ArtifactResult, name: str, against: str = "") -> Table:
    """Score by score, what the transcoder has, its references, and the other transcoder."""
    arms, layer = _arms(result, name, against), layer_of(result)
    columns = [scores(result, of) for of in arms.values()]
    rows = [[score, *(column[score] for column in columns)] for score in columns[0]]
    caption = (
        f"{result.model}, {layer.hook_in} to {layer.hook_out}; {result.config.held_out_prompts} held-out prompts, 95 % "
        "intervals over prompts (bootstrap). Errors are relative: 0 is best, 1 is what the mean does."
    )
    return Table(["score", *arms], rows, caption)


def card_figure(result: ArtifactResult, name: str, against: str = "", *, with_table: bool = True) -> Figure:
    """Errors of responses, of Jacobians, of effects downstream; deletion curves; and below them the table."""
    arms = _arms(result, name, against)
    panels = [
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
    ]
    table = card_table(result, name, against) if with_table else None
    return page_figure(_title(result, name), panels, 3, table, [0.3, *[0.7 / len(arms)] * len(arms)])


def _arms(result: ArtifactResult, name: str, against: str) -> dict[str, ArtifactNumbers]:
    found = {name if role == "transcoder" else role: result.of(name, role) for role in ROLES}
    if against and against != name:
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


def _title(result: ArtifactResult, name: str) -> str:
    return f"Faithfulness card: {name}, in the place of a layer of {result.model}"
