"""`faithfulness inspect` of one transcoder, or of two of one layer."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from faithfulness_plugin.cli.exports import Handed, write_exports
from faithfulness_plugin.cli.hook_options import model_on_text
from faithfulness_plugin.cli.inspecting import Inspecting
from faithfulness_plugin.cli.intervening import Asked
from faithfulness_plugin.cli.parts import Parts
from faithfulness_plugin.messages import say

if TYPE_CHECKING:
    from faithfulness_plugin.cli.inspect import InspectOptions
    from faithfulness_plugin.inspection.inspection import Inspection
    from faithfulness_plugin.inspection.passes import Passes
    from faithfulness_plugin.inspection.subjects import Subject

COSTS = {"activations": 20.0, "features": 15.0, "details": 10.0, "Jacobians": 4.0, "tokens": 8.0, "together": 4.0}
"""Seconds of a transcoder's parts, of 9,216 features at 100,000 tokens on one core."""
MODEL, INTERVENTIONS, PAGE = 80.0, 40.0, 5.0


def inspect_layer(
    loaded: Mapping[str, Any], of: Inspecting, folder: Path | None
) -> "tuple[list[Inspection], list[Path]]":
    """Inspect transcoders of one layer, change features, and write page and exports.

    Args:
        loaded: one transcoder or two, by name.
        of: what was asked for.
        folder: where finished parts are kept; None keeps none.

    Returns:
        The inspections, and the exports that were written.
    """
    from faithfulness_plugin.inspection.passes import Passes

    with Parts(_costs(loaded, of.options, of.asked)) as parts:
        passes = Passes(folder, parts.on_part)
        subject = _subject(loaded, of.options, parts, passes)
        of.asked.require_layer(subject)
        found = []
        for name, transcoder in loaded.items():

            def on_part(part: str, share: float, name: str = name) -> None:
                parts.on_part(f"{name}: {part}", share)

            one = subject.inspect(transcoder, name=name, passes=Passes(folder, on_part))
            found.append(of.asked.of(subject, one, lambda share, on_part=on_part: on_part("interventions", share)))
        parts.on_part("page", 0.0)
        shared = (subject, ", ".join(of.options.text), of.overwrite)
        written = write_exports(dict(of.exports), [Handed(one, *shared) for one in found])
        of.write(found, subject.token_text)
        passes.clear()
    return found, written


def _costs(loaded: Mapping[str, Any], options: "InspectOptions", asked: Asked) -> dict[str, float]:
    """Return the parts, with what each costs."""
    each = COSTS | ({"interventions": INTERVENTIONS} if asked.any else {})
    model = {} if options.bare else {"rows": MODEL}
    return model | {f"{name}: {part}": cost for name in loaded for part, cost in each.items()} | {"page": PAGE}


def _subject(loaded: Mapping[str, Any], options: "InspectOptions", parts: Parts, passes: "Passes") -> "Subject":
    """Return the layer on rows, and say what has to be said about them."""
    from faithfulness_plugin.inspection.subjects import bare_subject, text_subject, toy_subject
    from faithfulness_plugin.language_model.rows import say_rows

    shared: dict[str, Any] = {"seed": options.seed, "memory": options.memory}
    if options.bare:
        shared |= {"n_rows": options.n_tokens()}
        if options.rows is not None:
            return bare_subject(str(options.layer), Path(options.rows), **shared)
        drawn = options.model_dump(include={"density", "repeat_frac", "n_ones"})
        return toy_subject(len(next(iter(loaded.values())).W_enc), **drawn, **shared)
    source, named = model_on_text(options, loaded, parts.tell, options.seed)
    subject = text_subject(
        source,
        list(loaded.values()),
        model_named=named,
        block=options.block,
        n_tokens=options.n_tokens(),
        memory=options.memory,
        passes=passes,
        **options.model_dump(include={"hook_in", "hook_out", "hooks_anyway"}),
    )
    for notice in subject.notices:
        say(f"warning: {notice}")
    assert subject.sample.origins is not None
    say_rows("rows", subject.sample.origins.left_out, subject.sample.concentration())
    return subject
