"""The command `faithfulness experiment NAME`: the repository's own measurements."""

from inspect import getdoc
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import Field
from typing_extensions import override

from faithfulness_plugin.benchmarks.experiments import EXPERIMENTS
from faithfulness_plugin.cli.lazy import Entry, LazyGroup, as_command, attribute_at, group
from faithfulness_plugin.results.schema import Record


class Parallel(Record):
    """How many parts of an experiment run at a time."""

    jobs: int = Field(default=1, description="parts at a time; -1: one per core")


class Preset(Record):
    """Settings that come with the package."""

    preset: str | None = Field(default=None, description="settings by name, which --settings and options override")


class Experiments(LazyGroup):
    """A command for every registered experiment, with options from its config."""

    what = "experiment"

    @override
    def made(self, name: str) -> Any:
        """Return the command that runs an experiment."""
        from faithfulness_plugin.cli.options import made, with_fields
        from faithfulness_plugin.cli.running import require_jobs, run_experiment
        from faithfulness_plugin.results.open_or_resume import require_folder, require_same_kind
        from faithfulness_plugin.results.settings_file import make_config, read_settings

        listed = EXPERIMENTS[name]
        config_class, options_class = attribute_at(listed.config), attribute_at(listed.options)

        def command(
            given: dict[str, Any],
            settings: Annotated[Path | None, typer.Option(help="YAML file of settings, which options override")] = None,
            out: Annotated[Path, typer.Option(help="Folder for the result")] = Path("out") / name,
            overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing result")] = False,
            as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON, not as tables")] = False,
        ) -> None:
            preset, n_jobs = given.pop("preset", None), given.pop("jobs", 1)
            require_jobs(n_jobs, "parts")
            require_folder(out, overwrite=overwrite)
            if not overwrite:
                require_same_kind(out, listed.kind or name)
            options = {n: given.pop(n) for n in options_class.model_fields if n in given}
            paths = ([] if preset is None else [listed.preset_path(preset)]) + ([] if settings is None else [settings])
            if not paths:
                config = made(config_class, **given)
            else:
                fields = {name: value for path in paths for name, value in read_settings(path).items()}
                config = make_config({**fields, **given}, str(paths[-1]), config_class)
            made_options = made(options_class, **options)
            run_experiment(
                attribute_at(listed.place)(),
                config,
                out,
                overwrite=overwrite,
                as_json=as_json,
                n_jobs=n_jobs,
                options=made_options,
            )

        command.__doc__ = (
            f"{getdoc(config_class)}\n\nCalled again, it resumes an interrupted run and shows a complete one."
        )
        optional = [Parallel] * listed.parallel + [Preset] * (listed.presets is not None)
        if listed.presets is not None:
            command.__doc__ += f"\n\nPresets: {', '.join(listed.preset_names)}."
        configs = [config_class, options_class, *optional]
        made_command = with_fields(*configs)(command)
        return as_command(made_command, name, f"faithfulness experiment {name} --out out/{name}")


TABLE = {name: Entry(listed.place, listed.about) for name, listed in EXPERIMENTS.items()}

app = group(Experiments, TABLE, "Run the repository's own measurements.")
