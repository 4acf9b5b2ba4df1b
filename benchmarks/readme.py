"""Tables and figures of the docs, from the committed result files and nothing else: `make docs`."""

from collections.abc import Callable, Mapping
from pathlib import Path

from faithfulness_plugin.benchmarks import compatibility
from faithfulness_plugin.benchmarks.band.experiment import Band
from faithfulness_plugin.benchmarks.band.schema import BandResult
from faithfulness_plugin.benchmarks.chains import report as chains
from faithfulness_plugin.benchmarks.chains.experiment import Chains
from faithfulness_plugin.benchmarks.chains.schema import ChainsResult
from faithfulness_plugin.benchmarks.compatibility import DISTRIBUTIONS, CompatibilityResult
from faithfulness_plugin.benchmarks.inspection.cost import cost_table
from faithfulness_plugin.benchmarks.inspection.passage import PassageResult, passage_table
from faithfulness_plugin.benchmarks.inspection.toy import ToyScoresResult, toy_table
from faithfulness_plugin.benchmarks.note.absolute_value import report as absolute_value
from faithfulness_plugin.benchmarks.note.absolute_value.experiment import AbsoluteValue
from faithfulness_plugin.benchmarks.note.absolute_value.schema import AbsoluteValueResult
from faithfulness_plugin.benchmarks.note.page.page import verdicts, write_page
from faithfulness_plugin.benchmarks.readability.experiment import Readability
from faithfulness_plugin.benchmarks.readability.schema import ReadabilityResult
from faithfulness_plugin.benchmarks.readability.tables import overview as readability_overview
from faithfulness_plugin.benchmarks.real_layers.claims import verdicts as real_layers_verdicts
from faithfulness_plugin.benchmarks.real_layers.closing import closing
from faithfulness_plugin.benchmarks.real_layers.experiment import RealLayers
from faithfulness_plugin.benchmarks.real_layers.overview import by_kind
from faithfulness_plugin.benchmarks.real_layers.overview import overview as real_layers_overview
from faithfulness_plugin.benchmarks.real_layers.schema import RealLayersResult
from faithfulness_plugin.benchmarks.real_layers.sweep import sweep
from faithfulness_plugin.benchmarks.short_claims import short_claims
from faithfulness_plugin.benchmarks.suite import report as suite
from faithfulness_plugin.benchmarks.suite.leaderboard import write_leaderboard
from faithfulness_plugin.benchmarks.suite.schema import SuiteResult
from faithfulness_plugin.benchmarks.suite.with_skip_page import words as with_skip
from faithfulness_plugin.benchmarks.timing import adapter
from faithfulness_plugin.benchmarks.timing.adapter import OverheadResult
from faithfulness_plugin.benchmarks.timing.cross_layer import CrossLayerCost, CrossLayerCostResult
from faithfulness_plugin.benchmarks.timing.ensemble import Ensemble, EnsembleSpeedResult
from faithfulness_plugin.benchmarks.timing.speed import Speed, SpeedResult
from faithfulness_plugin.benchmarks.timing.start_up import StartUp, StartUpResult
from faithfulness_plugin.benchmarks.timing.store import StoreSpeed, StoreSpeedResult
from faithfulness_plugin.benchmarks.whole_model.experiment import WholeModel
from faithfulness_plugin.benchmarks.whole_model.schema import WholeModelResult
from faithfulness_plugin.benchmarks.whole_model.tables import overview as whole_model_overview
from faithfulness_plugin.benchmarks.whole_model.verdict import headline
from faithfulness_plugin.language_model import report as language_model
from faithfulness_plugin.language_model.result import TrainResult
from faithfulness_plugin.measure import report as artifact
from faithfulness_plugin.measure.compare import paired_differences
from faithfulness_plugin.measure.schema import ArtifactResult
from faithfulness_plugin.measure.verdict import verdict
from faithfulness_plugin.results.experiment import write_report
from faithfulness_plugin.results.open_or_resume import RESULT_FILENAME
from faithfulness_plugin.results.schema import read_result, write_text

ROOT = Path(__file__).resolve().parent.parent
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
RESULTS = ROOT / "benchmarks" / "results"
RESULT = RESULTS / "absolute_value" / RESULT_FILENAME
SPEED = RESULTS / "speed" / RESULT_FILENAME
ENSEMBLE_SPEED = RESULTS / "ensemble_speed" / RESULT_FILENAME
LANGUAGE_MODEL = RESULTS / "language_model" / RESULT_FILENAME
REAL_LAYERS = RESULTS / "real_layers"
WHOLE_MODEL = RESULTS / "whole_model"
STORE_SPEED = RESULTS / "store_speed" / RESULT_FILENAME
COMPATIBILITY = RESULTS / "compatibility"
ADAPTER_OVERHEAD = RESULTS / "adapter_overhead"
TOY = RESULTS / "toy"
FAITHFULNESS = RESULTS / "faithfulness"
ARTIFACTS = RESULTS / "artifacts" / RESULT_FILENAME
INSPECTION = RESULTS / "inspection"
READABILITY = RESULTS / "readability"
CHAINS = RESULTS / "chains"


def measured() -> dict[str, str]:
    """Read all results, and format their tables.

    Returns:
        Each table by the name of its place in the docs.
    """
    artifacts = read_result(ARTIFACTS, ArtifactResult)
    # as `make artifacts` names them
    pairs = [(name, name.replace("jvp_", "none_")) for name in artifacts.config.transcoders if name.startswith("jvp_")]
    passages = read_result(INSPECTION / "passage" / RESULT_FILENAME, PassageResult)
    toy, beyond = read_result(RESULT, AbsoluteValueResult), _all("beyond")
    whole_model = [read_result(path, WholeModelResult) for path in WHOLE_MODEL.glob(RESULT_FILENAME)]
    return {
        "claims": short_claims(
            toy, beyond, read_result(REAL_LAYERS / "seeds" / RESULT_FILENAME, RealLayersResult), whole_model
        ),
        "absolute-value table": absolute_value.tables(toy),
        "beyond table": absolute_value.beyond_table(beyond),
        "architectures table": absolute_value.beyond_table(_all("architectures")),
        "speed table": Speed().tables(read_result(SPEED, SpeedResult)),
        "ensemble speed table": Ensemble().tables(read_result(ENSEMBLE_SPEED, EnsembleSpeedResult)),
        "verdicts": verdicts(TOY),
        "language-model table": language_model.tables(read_result(LANGUAGE_MODEL, TrainResult)),
        **_real_layers(),
        "whole-model table": "\n\n".join(
            part for result in whole_model for part in (headline(result), whole_model_overview(result)) if part
        ),
        "compatibility table": compatibility.table(
            [read_result(COMPATIBILITY / f"{library}.json", CompatibilityResult) for library in DISTRIBUTIONS]
        ),
        "adapter-overhead table": adapter.table(
            [read_result(path, OverheadResult) for path in sorted(ADAPTER_OVERHEAD.glob(f"*/{RESULT_FILENAME}"))]
        ),
        "start-up table": "\n".join(
            StartUp().tables(read_result(path, StartUpResult)) for path in RESULTS.glob(f"start_up/{RESULT_FILENAME}")
        ),
        "store-speed table": StoreSpeed().tables(read_result(STORE_SPEED, StoreSpeedResult)),
        "artifact verdict": f"> {verdict(artifacts, next(iter(artifacts.config.transcoders)))}.",
        "artifact scores": artifact.overview(artifacts).render("markdown"),
        "artifact differences": paired_differences(artifacts, pairs).render("markdown"),
        "inspection toy": toy_table(read_result(INSPECTION / "toy" / RESULT_FILENAME, ToyScoresResult)),
        "inspection passage": passage_table(passages),
        "inspection cost": cost_table(passages.measured, passages.processor),
        "readability table": "\n".join(
            readability_overview(read_result(path, ReadabilityResult)) for path in READABILITY.glob(RESULT_FILENAME)
        ),
        "benchmark tasks": suite.tasks_table().render("markdown"),
        "benchmark scores": suite.scores_table().render("markdown"),
        "benchmark with skip": with_skip(_suite_results()),
        "chains tasks": chains.tasks_table().render("markdown"),
        **{f"chains {path.parent.name}": _chains(path) for path in CHAINS.glob(f"*/{RESULT_FILENAME}")},
        "band table": "\n".join(
            Band().tables(read_result(path, BandResult)) for path in RESULTS.glob(f"band/{RESULT_FILENAME}")
        ),
        "cross-layer cost": "\n".join(
            CrossLayerCost().tables(read_result(path, CrossLayerCostResult))
            for path in RESULTS.glob(f"cross_layer_cost/{RESULT_FILENAME}")
        ),
    }


def beside_the_methods(tables: Mapping[str, str]) -> dict[str, str]:
    """Choose what the leaderboard shows beside the track of methods.

    Args:
        tables: as `measured`.

    Returns:
        Markdown by title, of what was measured.
    """
    chains = [path.read_text(encoding="utf-8") for path in sorted(RESULTS.glob("chains/**/table.md"))]
    shown = {
        "Cross-layer transcoders": "\n\n".join(chains),
        "Finished transcoders": tables["artifact scores"],
        "Layers of a language model": tables["real-layers seeds"],
        "Attribution graphs": tables["whole-model table"],
    }
    return {title: text for title, text in shown.items() if text.strip()}


def _real_layers() -> dict[str, str]:
    """Format the results of the experiment on real layers: each has the name of its preset."""
    shows: dict[str, Callable[[RealLayersResult], str]] = {
        "sweep": sweep,
        "closing": closing,
        "pareto": by_kind,
        "kinds": by_kind,
    }
    found: dict[str, str] = {}
    for path in REAL_LAYERS.glob(f"*/{RESULT_FILENAME}"):
        name, result = path.parent.name, read_result(path, RealLayersResult)
        if name != "version_0_8":
            found[f"real-layers {name}"] = shows.get(name, real_layers_overview)(result)
        if name == "seeds":
            found["real-layers verdict"] = real_layers_verdicts(result)
    return found


def _chains(path: Path) -> str:
    """Format a result of the second track: scores at the chains' L0, or along the sweep where that is not passed."""
    result = read_result(path, ChainsResult)
    if path.parent.name == "standard":
        return chains.overview(result)
    return "\n".join(chains.sweep_table(result, task).render("markdown") for task in result.config.tasks)


def _all(folder: str) -> list[AbsoluteValueResult]:
    return [read_result(path, AbsoluteValueResult) for path in sorted(RESULTS.glob(f"{folder}/*/{RESULT_FILENAME}"))]


def _suite_results() -> list[SuiteResult]:
    """Read the benchmark's results, that of the shipped methods first."""
    paths = sorted(FAITHFULNESS.glob(f"*/{RESULT_FILENAME}"), key=lambda path: path.parent.name != "standard")
    return [read_result(path, SuiteResult) for path in paths]


def fill_in(page: str, name: str, table: str) -> str:
    """Replace what stands between the markers `begin: name` and `end: name`; a page without them stays as it is.

    Args:
        page: the page's text.
        name: of the table.
        table: the new table.

    Returns:
        The page's new text.

    Raises:
        ValueError: only one of the markers is there, or they are in the wrong order.
    """
    begin, end = f"<!-- begin: {name} -->", f"<!-- end: {name} -->"
    before, found_begin, rest = page.partition(begin)
    _, found_end, after = rest.partition(end)
    if not found_begin and end not in page:
        return page
    if not found_begin or not found_end:
        raise ValueError(f"a page has one of {begin} and {end} without the other, or in the wrong order")
    return f"{before}{begin}\n\n{table.strip()}\n\n{end}{after}"


def main() -> None:
    """Rewrite table.md and the figures beside each committed result, and the tables in README.md and docs."""
    for folder in ("absolute_value", "beyond", "architectures"):
        for path in (RESULTS / folder).rglob(RESULT_FILENAME):
            write_report(AbsoluteValue(), read_result(path, AbsoluteValueResult), path.parent)
    write_report(Speed(), read_result(SPEED, SpeedResult), SPEED.parent)
    write_report(Ensemble(), read_result(ENSEMBLE_SPEED, EnsembleSpeedResult), ENSEMBLE_SPEED.parent)
    for path in sorted(REAL_LAYERS.glob(f"*/{RESULT_FILENAME}")):
        write_report(RealLayers(), read_result(path, RealLayersResult), path.parent)
    for path in WHOLE_MODEL.glob(RESULT_FILENAME):
        write_report(WholeModel(), read_result(path, WholeModelResult), path.parent)
    for path in READABILITY.glob(RESULT_FILENAME):
        write_report(Readability(), read_result(path, ReadabilityResult), path.parent)
    for path in CHAINS.glob(f"*/{RESULT_FILENAME}"):
        write_report(Chains(), read_result(path, ChainsResult), path.parent)
    write_page(TOY, TOY)
    tables = measured()
    write_leaderboard(_suite_results(), FAITHFULNESS, beside_the_methods(tables))
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for name, table in tables.items():
            text = fill_in(text, name, table)
        write_text(page, text)


if __name__ == "__main__":
    main()
