"""The README's pictures of the inspection page: of the toy with and without matching, and of a language model's layer.

python -m faithfulness_plugin.benchmarks.inspection.screenshots out/passage --out benchmarks/results/inspection
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

from faithfulness_plugin.benchmarks.inspection.cost import WITHOUT_NETWORK, installed_browser
from faithfulness_plugin.benchmarks.inspection.passage import Passage
from faithfulness_plugin.benchmarks.inspection.schema import CONDITIONS, Condition, PassageConfig
from faithfulness_plugin.benchmarks.inspection.subjects import toy_subject
from faithfulness_plugin.benchmarks.inspection.toy import trained_toys
from faithfulness_plugin.benchmarks.real_layers.experiment import TRANSCODERS
from faithfulness_plugin.benchmarks.real_layers.schema import RealLayersResult
from faithfulness_plugin.inspection.inspection import Inspection, inspect_transcoder
from faithfulness_plugin.inspection.page import write_page
from faithfulness_plugin.results.result_file import RESULT_FILENAME
from faithfulness_plugin.results.schema import read_result
from faithfulness_plugin.transcoders.load import load_transcoder

TOYS: dict[str, Condition] = {"no term": "repetition", "Jacobian matched": "repetition + Jacobian"}
SEED, STEPS = 1000, 4000
SIZE = {"width": 1500, "height": 1000}


def toys() -> list[Inspection]:
    """|x| with a repeated point: without a term, and with the Jacobian matched."""
    subject = toy_subject(16, density=0.1, repeat_frac=0.05, n_ones=3, n_rows=8192, seed=SEED)
    return [
        inspect_transcoder(
            trained_toys(CONDITIONS[condition], [SEED], STEPS).transcoder(0),
            subject.layer,
            subject.sample,
            name=name,
            layer_name="y = |x|",
            circuits=subject.circuits,
            kinks=True,
        )
        for name, condition in TOYS.items()
    ]


def text(transcoders: Path) -> tuple[Inspection, Any]:
    """The first transcoder of a result that was trained with the passage, on text that holds it; and how its tokens
    read."""
    trained = read_result(transcoders / RESULT_FILENAME, RealLayersResult)
    folder = next(of.run.folder for of in trained.trained if of.repeated)
    subject = Passage(trained, PassageConfig(transcoders=str(transcoders)), print).subject
    transcoder = load_transcoder(transcoders / TRANSCODERS / folder)
    made = inspect_transcoder(
        transcoder, subject.layer, subject.sample, name="passage repeated", layer_name=subject.name
    )
    return made, subject.token_text


def taken(page: Path, into: Path, select: str | None = None) -> None:
    """The table and the first feature by datapoint score; of what it is told to choose for the Jacobian."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=installed_browser(), args=WITHOUT_NETWORK)
        tab = browser.new_page(viewport=SIZE)  # pyright: ignore[reportArgumentType]
        tab.goto(page.as_uri())
        tab.click("#tab-features")
        tab.wait_for_selector("#feature h2")
        if select is not None:
            choice = tab.get_by_label("Row of the Jacobian")
            labels = choice.locator("option").all_inner_texts()
            choice.select_option(label=next(label for label in labels if select in label))
        for plot in tab.locator("#feature [role=img]").all():
            plot.scroll_into_view_if_needed()
            plot.locator(".main-svg").first.wait_for()
        tab.evaluate("scrollTo(0, 0)")
        tab.screenshot(path=into, full_page=True)
        browser.close()


def main() -> None:
    """Writes both."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("transcoders", type=Path, help="folder of an `experiment real-layers` run with a passage")
    options.add_argument("--out", type=Path, default=Path("benchmarks/results/inspection"))
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "page.html"
        write_page(toys(), page, title="y = |x|, one input repeated")
        taken(page, given.out / "toy_feature.png", "x1 = 1, x2 = 1, x3 = 1")
        made, token_text = text(given.transcoders)
        write_page([made], page, token_text=token_text, title="A passage repeated in training")
        taken(page, given.out / "text_feature.png")


if __name__ == "__main__":
    main()
