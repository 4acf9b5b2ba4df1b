"""`faithfulness inspect` of a set: a folder of transcoders of several layers."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from faithfulness_plugin.cli.exports import Handed, write_exports
from faithfulness_plugin.cli.hook_options import by_name, model_on_text
from faithfulness_plugin.cli.inspecting import Inspecting
from faithfulness_plugin.cli.terminal import Lines
from faithfulness_plugin.errors import UsageError
from faithfulness_plugin.messages import say

if TYPE_CHECKING:
    from faithfulness_plugin.cli.inspect import InspectOptions
    from faithfulness_plugin.inspection.inspection import Inspection
    from faithfulness_plugin.inspection.subjects import Subject

TOKENS = 20_000
OF_ONE_LAYER = ("hook_in", "hook_out", "hooks_anyway", "autoencoder")
"""Options that mean one layer."""


class Sources(NamedTuple):
    """What is inspected."""

    by_name: dict[str, str]
    set_name: str | None = None
    """None for one transcoder, or two of one layer."""
    blocks: str | None = None
    """The layers of the set that were asked for; None means all."""


def sources_of(
    path: str, compare: str | None, set_name: str | None, blocks: str | None, options: "InspectOptions"
) -> Sources:
    """Tell a set from a transcoder, and choose one of the sets that a folder holds.

    Args:
        path: the command's argument.
        compare: its second transcoder.
        set_name: the set that was asked for; None for the only one.
        blocks: the layers of the set that were asked for.
        options: the command's.

    Returns:
        Folders and addresses by name.

    Raises:
        UsageError: options of a set for a transcoder, or the other way round; several sets, or none of that name.
    """
    from faithfulness_plugin.measure.sets.folder import folders_in, sets_in

    sources = by_name([path] if compare is None else [path, compare])
    if options.layer is not None or not folders_in(next(iter(sources.values()))):
        if set_name is not None or blocks is not None:
            raise UsageError(
                "--set and --blocks are for a set, a folder of transcoders of several layers: leave them out"
            )
        return Sources(sources)
    if compare is not None:
        raise UsageError("--compare is for two transcoders of one layer: leave it out, or pass single transcoders")
    for name in OF_ONE_LAYER:
        if getattr(options, name):
            raise UsageError(f"--{name.replace('_', '-')} is for transcoders of one layer: leave it out")
    sets = sets_in(sources)
    if set_name is None and all(len(of) == 1 for of in sets.values()):
        return Sources(sources)  # several transcoders, of which one has to be named: loading says which there are
    if set_name is None and len(sets) > 1:
        raise UsageError(f"{path} holds the sets {', '.join(sets)}: choose one, such as --set {next(iter(sets))}")
    if set_name is not None and set_name not in sets:
        raise UsageError(f"--set {set_name}: {path} has no such set: choose from {', '.join(sets)}")
    set_name = next(iter(sets)) if set_name is None else set_name
    return Sources(sets[set_name], set_name, blocks)


def of_blocks(loaded: Mapping[str, Any], blocks: str | None) -> dict[int, tuple[str, Any]]:
    """Sort transcoders by their blocks, and keep those that were asked for.

    Args:
        loaded: transcoders by name.
        blocks: such as 3,5-7; None for all.

    Returns:
        Name and transcoder by block.

    Raises:
        UsageError: as `blocks_of`; a block without a transcoder, or fewer than two.
    """
    from faithfulness_plugin.language_model.plan import ALL, as_blocks, say_blocks
    from faithfulness_plugin.language_model.replacement import blocks_of

    found = blocks_of(loaded)
    try:
        wanted = list(found) if blocks is None else as_blocks(blocks)
    except ValueError as error:
        raise UsageError(f"--blocks: {error}") from error
    wanted = list(found) if wanted == ALL else wanted
    if missing := sorted(set(wanted) - set(found)):
        raise UsageError(
            f"--blocks: the set has no transcoder of {say_blocks(missing)}: choose from {say_blocks(list(found))}"
        )
    if len(set(wanted)) < 2:
        raise UsageError("--blocks: a set's page shows two layers or more: inspect one transcoder by its own folder")
    return {block: of for block, of in found.items() if block in wanted}


def inspect_blocks(
    sources: Sources, loaded: Mapping[str, Any], of: Inspecting, folder: Path | None
) -> "tuple[list[Inspection], list[Path]]":
    """Inspect the transcoders of a set, change features, and write exports, layer by layer; then write the page.

    Args:
        sources: the set.
        loaded: its transcoders by name.
        of: what was asked for.
        folder: where finished parts are kept; None keeps none.

    Returns:
        The inspections, and the exports that were written.
    """
    from faithfulness_plugin.inspection.passes import Passes
    from faithfulness_plugin.inspection.sets import inspect_set

    name, transcoders = str(sources.set_name), of_blocks(loaded, sources.blocks)
    called = dict(transcoders.values())
    written: list[Path] = []
    texts: list[Any] = []
    passes = Passes(folder)
    n_parts = len(transcoders) + 3  # where features fire, virtual weights, interference
    with Lines(n_parts, 0, name) as lines:
        source, named = model_on_text(of.options, called, lines.tell, of.options.seed)

        def then(block: int, subject: "Subject", one: "Inspection") -> "Inspection":
            for notice in subject.notices:
                say(f"warning: block {block}: {notice}")
            texts.append(subject.token_text)
            of.asked.require_layer(subject)
            one = of.asked.of(subject, one)
            shared = (subject, ", ".join(of.options.text), of.overwrite)
            for option, folder in of.exports.items():
                # delphi has a folder for each transcoder, the others one for the set
                own = transcoders[block][0] if option == "delphi" else name
                written.extend(write_exports({option: folder}, [Handed(replace(one, name=own), *shared)]))
            return one

        found = inspect_set(
            source,
            {block: transcoder for block, (_, transcoder) in transcoders.items()},
            n_tokens=of.options.n_tokens(TOKENS),
            memory=of.options.memory,
            model_named=named,
            then=then,
            on_part=lines.show,
            passes=passes,
        )
        of.write(found, texts[0])
        passes.clear()
    return found, list(dict.fromkeys(written))
