"""The command `faithfulness experiment NAME`: the repository's own measurements."""

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
            overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a result that is there")] = False,
            as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON, not as tables")] = False,
        ) -> None:
            n_jobs = given.pop("jobs", 1)
            require_jobs(n_jobs, "parts")
            require_folder(out, overwrite=overwrite)
            if not overwrite:
                require_same_kind(out, listed.kind or name)
            options = {n: given.pop(n) for n in options_class.model_fields if n in given}
            if settings is None:
                config = made(config_class, **given)
            else:
                config = make_config({**read_settings(settings), **given}, str(settings), config_class)
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
            f"{config_class.__doc__}\n\nInterrupted, it resumes when called again; complete, it shows what is there."
        )
        configs = [config_class, options_class] + [Parallel] * listed.parallel
        made_command = with_fields(*configs)(command)
        return as_command(made_command, name, f"faithfulness experiment {name} --out out/{name}")


TABLE = {name: Entry(listed.place, listed.about) for name, listed in EXPERIMENTS.items()}

app = group(Experiments, TABLE, "Run the repository's own measurements.")
