"""The command `faithfulness experiment NAME`: the repository's own measurements."""

import importlib
from pathlib import Path
from typing import Annotated, Any

import typer
import typer.core

from faithfulness_plugin.benchmarks.experiments import EXPERIMENTS
from faithfulness_plugin.nearest import nearest


class Experiments(typer.core.TyperGroup):
    """A command for every registered experiment, made when it is asked for."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the experiments' names."""
        return list(EXPERIMENTS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return the command of one experiment; fails with the name that was meant for one that does not exist."""
        if cmd_name not in EXPERIMENTS:
            ctx.fail(f"there is no experiment {cmd_name}: {nearest(cmd_name, list(EXPERIMENTS))}")
        return _command(cmd_name)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """List the names with what they measure, without importing any of them."""
        with formatter.section("Experiments"):
            formatter.write_dl([(name, about) for name, (_, about) in EXPERIMENTS.items()])


app = typer.Typer(
    cls=Experiments, help="Run the repository's own measurements.", no_args_is_help=True, rich_markup_mode=None
)


@app.callback()
def _group() -> None:
    """Run the repository's own measurements."""


def _command(name: str) -> Any:
    from faithfulness_plugin.cli.options import made, with_fields
    from faithfulness_plugin.cli.running import run_experiment
    from faithfulness_plugin.results.settings_file import make_config, read_settings

    module, _, attribute = EXPERIMENTS[name][0].partition(":")
    experiment = getattr(importlib.import_module(module), attribute)()

    def command(
        given: dict[str, Any],
        settings: Annotated[Path | None, typer.Option(help="YAML file of settings, which options override")] = None,
        out: Annotated[Path, typer.Option(help="Folder for the result")] = Path("out") / name,
        jobs: Annotated[int, typer.Option(help=f"{experiment.parts.capitalize()} at a time; -1: one per core")] = 1,
        overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a result that is there")] = False,
    ) -> None:
        fields = {} if settings is None else read_settings(settings)
        options = {n: given.pop(n) for n in experiment.options_class.model_fields if n in given}
        config = (
            made(experiment.config_class, **given)
            if settings is None
            else make_config({**fields, **given}, str(settings), experiment.config_class)
        )
        run_experiment(
            experiment,
            config,
            out,
            overwrite=overwrite,
            n_jobs=jobs,
            options=made(experiment.options_class, **options),
        )

    app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    command.__doc__ = (
        f"{experiment.summary}\n\nInterrupted, it resumes when called again; complete, it shows what is there."
    )
    app.command(name, epilog=f"Example: faithfulness experiment {name} --out out/{name}")(
        with_fields(experiment.config_class, experiment.options_class)(command)
    )
    made_command = typer.main.get_command(app)
    made_command.name = name
    return made_command
