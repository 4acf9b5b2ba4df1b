"""`faithfulness measure` of sets: folders of transcoders of several layers."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from faithfulness_plugin.cli.hook_options import by_name
from faithfulness_plugin.cli.options import made
from faithfulness_plugin.cli.rows import ROW_OPTIONS, row_settings
from faithfulness_plugin.cli.running import run_experiment
from faithfulness_plugin.errors import UsageError
from faithfulness_plugin.messages import say

if TYPE_CHECKING:  # at run time the command passes them
    from faithfulness_plugin.cli.measure import MeasureOptions

NAMES = {
    "held_out_prompts": "prompts",
    "changed_blocks": "change_layers",
    "transcoder_dtype": "dtype",
    **ROW_OPTIONS,
}
"""Options by the fields that they give."""
PROMPTS, EFFECT_PROMPTS, QUICK = 16, 8, 4
OF_ONE_LAYER = ("hook_in", "hook_out", "hooks_anyway", "autoencoder")
"""Options that mean one layer."""


def measure_sets(
    paths: Sequence[str],
    options: "MeasureOptions",
    given: Mapping[str, Any],
    out: Path | None,
    *,
    overwrite: bool,
    as_json: bool,
) -> NoReturn:
    """Measure sets, show the tables, and exit.

    Args:
        paths: the command's arguments, all of them folders of sets.
        options: the command's.
        given: those that were given, by name.
        out: the folder for the result; None for the default.
        overwrite: whether a result that is there is replaced.
        as_json: print the result as JSON.

    Raises:
        UsageError: folders, options, model or text that cannot be used.
    """
    from faithfulness_plugin.cli.checks import require_readable
    from faithfulness_plugin.measure.sets.config import SetConfig
    from faithfulness_plugin.measure.sets.folder import sets_in
    from faithfulness_plugin.measure.sets.schema import SetResult
    from faithfulness_plugin.results.open_or_resume import require_resumable, require_same_kind

    for name in OF_ONE_LAYER:
        if given.get(name):
            option = name.replace("_", "-")
            raise UsageError(f"--{option} is for transcoders of one layer: leave it out, or pass --layer with a set")
    sets = sets_in(by_name(paths))
    n_prompts = options.n_prompts(QUICK if options.quick else PROMPTS)
    settings: dict[str, Any] = {
        **options.model_dump(include={"context_size", "seed", "device"}),
        "sets": sets,
        "text": {"files": options.text},
        "transcoder_dtype": options.dtype,
        "held_out_prompts": n_prompts,
        "effect_prompts": min(EFFECT_PROMPTS, n_prompts),
        "effects": not options.quick,
        "changed_blocks": options.change_layers,
        "rows": row_settings(given),
    }
    out = out or Path("out/measure_sets_quick" if options.quick else "out/measure_sets")
    config = made(SetConfig, NAMES, **settings)
    require_readable([path for of in sets.values() for path in of.values()], options)
    if not overwrite:
        require_same_kind(out, "faithfulness of sets")
    known = {name: of for name, of in config.every_field().items() if name not in ("model", "model_named", "rows")}
    require_resumable(out, SetResult, known, overwrite=overwrite)

    from faithfulness_plugin.language_model.config import ModelSource
    from faithfulness_plugin.language_model.named_model import choose_model
    from faithfulness_plugin.measure.sets.run import SetMeasurement
    from faithfulness_plugin.transcoders.load import load_each

    loaded = {name: load_each(of, **config.reading) for name, of in sets.items()}
    each = {f"{name}: {called}": t.transcoder for name, of in loaded.items() for called, t in of.items()}
    chosen = choose_model(each, options.model, anyway=options.model_anyway)
    if chosen.note is not None:
        say(chosen.note)
    config = config.model_copy(update={"model": ModelSource(name=chosen.name), "model_named": chosen.named})
    run_experiment(SetMeasurement(loaded), config, out, overwrite=overwrite, as_json=as_json)
