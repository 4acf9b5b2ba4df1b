"""What `faithfulness inspect` costs, and how long its page takes to answer."""

import tempfile
import time
from pathlib import Path
from shutil import which
from typing import Any

import torch
from pydantic import Field

from faithfulness_plugin.benchmarks.real_layers.config import RealLayersConfig
from faithfulness_plugin.benchmarks.timing.harness import fresh_process
from faithfulness_plugin.results.markdown import markdown_table
from faithfulness_plugin.results.schema import Record
from faithfulness_plugin.transcoders.load import load_transcoder

MIB_PER_GIB, MEGABYTE = 1024, 1e6
BROWSER = ("chromium", "chromium-browser", "google-chrome")
WITHOUT_NETWORK = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]


class InspectionCost(Record):
    """What the page of one transcoder of a real layer costs."""

    d_sae: int
    tokens: int
    threads: int
    seconds: float = Field(description="seconds of the whole command, start and loading the model included")
    memory: float = Field(description="GiB asked for")
    peak: float = Field(description="GiB of the process, model and transcoder included")
    page_megabytes: float
    load: float | None = Field(description="seconds from opening the page until it answers; None without a browser")
    table: float | None = Field(description="seconds from the click on Features to rows and a feature's details")
    sort: float | None = Field(description="seconds from the click on a column's title to the new order")


def inspection_cost(folder: Path, config: RealLayersConfig, tokens: int, memory: float) -> InspectionCost:
    """Measure the command in a process of its own, on a transcoder of a result, then its page in a browser.

    Args:
        folder: the transcoder's.
        config: what it was trained on.
        tokens: how many are inspected.
        memory: GiB, as --memory.

    Returns:
        Seconds, memory, and the page's size and response times.

    Raises:
        RuntimeError: the command failed; the message is what it says.
    """
    with tempfile.TemporaryDirectory() as out:
        page = Path(out) / "page.html"
        options = ["--tokens", str(tokens), "--memory", str(memory), "--model", config.model.name]
        options += ["--context-size", str(config.context_size), *(f"--text={file}" for file in config.text.files)]
        command = fresh_process("faithfulness_plugin", "inspect", str(folder), "--out", str(page), *options)
        return InspectionCost(
            d_sae=len(load_transcoder(folder).W_dec),
            tokens=tokens,
            threads=torch.get_num_threads(),
            seconds=command.seconds,
            memory=memory,
            peak=command.mebibytes / MIB_PER_GIB,
            page_megabytes=page.stat().st_size / MEGABYTE,
            **dict(zip(("load", "table", "sort"), _opened(page), strict=True)),
        )


def _opened(page: Path) -> tuple[float | None, float | None, float | None]:
    """Return the seconds until the page answers, until its table and a feature are shown, and until the table is sorted
    again; None each without Playwright and a Chromium."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        return None, None, None
    if (chromium := installed_browser()) is None:
        return None, None, None
    with sync_playwright() as playwright:
        browser: Any = playwright.chromium.launch(executable_path=chromium, args=WITHOUT_NETWORK)
        tab = browser.new_page()
        begun = time.perf_counter()
        tab.goto(page.resolve().as_uri())
        tab.wait_for_selector("html[data-ready=yes]")
        ready = time.perf_counter()
        tab.click("#tab-features")
        tab.wait_for_selector("#table-holder tbody tr")
        tab.wait_for_selector("#feature h2")
        there = time.perf_counter()
        tab.click("#table-holder th >> text=fires")
        tab.wait_for_selector("#table-holder th[aria-sort=ascending] >> text=fires")
        again = time.perf_counter()
        browser.close()
    return ready - begun, there - ready, again - there


def installed_browser() -> str | None:
    """Find the first Chromium on PATH.

    Returns:
        Its path; None for none.
    """
    return next((path for name in BROWSER if (path := which(name))), None)


def cost_table(cost: InspectionCost | None, processor: str) -> str:
    """Format what inspecting one transcoder costs.

    Args:
        cost: None where it was not measured.
        processor: what it was measured on.

    Returns:
        Markdown; "" where it was not measured.
    """
    if cost is None:
        return ""
    rows = {
        "the whole command": f"{cost.seconds:.0f} s",
        "peak memory (model and transcoder included)": f"{cost.peak:.1f} GiB (--memory {cost.memory:g})",
        "page": f"{cost.page_megabytes:.1f} MB",
        "page opened, until it responds": _seconds(cost.load),
        "table and a feature's details": _seconds(cost.table),
        "sorting": _seconds(cost.sort),
    }
    caption = (
        f"{cost.d_sae:,} features, {cost.tokens:,} tokens, {cost.threads} thread{'s' * (cost.threads > 1)} of "
        f"{processor}; Chromium, headless."
    )
    return f"{markdown_table(['what', 'measured'], [list(row) for row in rows.items()])}\n\n{caption}\n"


def _seconds(value: float | None) -> str:
    return "—" if value is None else f"{value:.2f} s"
