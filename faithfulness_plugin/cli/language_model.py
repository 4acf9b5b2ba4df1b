"""The command `faithfulness bench language-model`."""

from pathlib import Path
from typing import Annotated

import typer

from faithfulness_plugin.cli.terminal import Lines, fail, show
from faithfulness_plugin.messages import one_line, say


def language_model(
    config: Annotated[
        Path | None, typer.Argument(help="YAML file of settings, in place of the size's [default: none]")
    ] = None,
    size: Annotated[str, typer.Option(help="cpu (half an hour or so on 2 cores) or gpu (the full grid)")] = "cpu",
    out: Annotated[Path, typer.Option(help="Folder for result, page, figures and transcoders")] = Path(
        "out/language_model"
    ),
    stores: Annotated[
        Path | None, typer.Option(help="Folder for stores of rows and derivatives [default: stores in --out]")
    ] = None,
    tokens: Annotated[int | None, typer.Option(help="That every transcoder is trained on")] = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda, in place of the size's")] = None,
    seed: Annotated[int | None, typer.Option(help="The first")] = None,
    seeds: Annotated[int | None, typer.Option(help="How many")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a result that is there")] = False,
) -> None:
    """Does Jacobian matching make transcoders of a language model's MLPs more faithful, and along which directions?

    Fills stores of rows and derivatives once, then trains transcoder after transcoder from them: no term, jvp and
    secant along isotropic, difference and pair probes, augmentation, and a passage that is repeated. Writes errors
    beside their floors, response curves, the loss of the spliced model, and a page. Interrupted, the same command goes
    on; complete, it shows what is there.
    """
    from faithfulness_plugin.benchmarks.real_layers.config import RealLayersConfig
    from faithfulness_plugin.benchmarks.real_layers.experiment import complete, open_result
    from faithfulness_plugin.benchmarks.real_layers.report import line_of, write_report
    from faithfulness_plugin.benchmarks.real_layers.sizes import SIZES
    from faithfulness_plugin.benchmarks.real_layers.tables import tables
    from faithfulness_plugin.language_model.config import TrainConfigError, make_config, read_settings
    from faithfulness_plugin.results.result_file import RESULT_FILENAME
    from faithfulness_plugin.results.schema import ResultError, read_result
    from faithfulness_plugin.store import StoreError

    if size not in SIZES:
        fail(f"--size {size}: choose from {', '.join(SIZES)}", 2)
    flags = {"tokens": tokens, "device": device, "seed": seed, "seeds": seeds}
    path = out / RESULT_FILENAME
    try:
        settings = {} if config is None else read_settings(config)
        given = {name: value for name, value in flags.items() if value is not None}
        all_settings = {**SIZES[size], **settings, **given}
        wanted = make_config(all_settings, str(config or f"--size {size}"), RealLayersConfig)
        result = open_result(out, wanted, overwrite=overwrite)
    except (TrainConfigError, ResultError) as error:
        fail(str(error), 2)
    total = len(wanted.runs())
    if result.complete:
        say(f"{path} is complete; shown again, not run again (--overwrite runs it anew)")
    elif result.trained:
        say(f"{path} holds {len(result.trained)} of {total} transcoders: going on")
    try:
        with Lines(total, len(result.trained), "transcoders") as lines:
            result = complete(
                result,
                out,
                out / "stores" if stores is None else stores,
                note=lines.tell,
                on_run=lambda trained, result: lines.show(line_of(trained, result)),
                begin_anew=overwrite,
            )
        written = write_report(result, out)
    except (TrainConfigError, StoreError) as error:
        fail(str(error), 2)
    except KeyboardInterrupt:
        there = read_result(path, type(result)) if path.exists() else None
        if there is None or there.config != wanted:
            say("stopped; nothing has been begun, or replaced")
        else:
            done = f"{path} holds {len(there.trained)} of {total} transcoders"
            say(f"stopped: {done}; the same command without --overwrite goes on")
        raise typer.Exit(130) from None
    except (ValueError, RuntimeError, OSError) as error:
        fail(one_line(error), 1)
    show(tables(result))
    say("written: " + ", ".join(map(str, [path, *written])))
