"""The pictures of the inspection page: of the toy with and without matching, and of a language model's layer.

python -m faithfulness_plugin.benchmarks.inspection.screenshots out/passage --out benchmarks/results/inspection
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

from faithfulness_plugin.benchmarks.inspection.cost import WITHOUT_NETWORK, installed_browser
from faithfulness_plugin.benchmarks.inspection.live import toy_page
from faithfulness_plugin.benchmarks.inspection.passage import Passage, PassageConfig, trained_transcoders
from faithfulness_plugin.benchmarks.real_layers.experiment import TRANSCODERS
from faithfulness_plugin.inspection.inspection import Inspection
from faithfulness_plugin.inspection.page import write_page
from faithfulness_plugin.transcoders.load import load_transcoder

SIZE = {"width": 1500, "height": 1000}


def _text(transcoders: str) -> tuple[Inspection, Any]:
    """Inspect the first transcoder of a result that was trained with the passage, on text that holds it; return how its
    tokens read as well."""
    trained = trained_transcoders(transcoders)
    folder = next(of.run.folder for of in trained.trained if of.repeated)
    subject = Passage(trained, PassageConfig(transcoders=transcoders), print).subject
    transcoder = load_transcoder(Path(transcoders) / TRANSCODERS / folder)
    return subject.inspect(transcoder, name="passage repeated"), subject.token_text


def _taken(page: Path, into: Path, select: str | None = None) -> None:
    """Take a picture of the table and the first feature by datapoint score, with the selected row's Jacobian."""
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
    """Write both pictures."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("transcoders", help="folder of an experiment on real layers with a passage")
    options.add_argument("--out", type=Path, default=Path("benchmarks/results/inspection"))
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "page.html"
        toy_page(page)
        _taken(page, given.out / "toy_feature.png", "x1 = 1, x2 = 1, x3 = 1")
        made, token_text = _text(given.transcoders)
        write_page([made], page, token_text=token_text, title="A passage repeated in training")
        _taken(page, given.out / "text_feature.png")


if __name__ == "__main__":
    main()
