"""What `faithfulness inspect` costs, and how long its page takes to answer."""

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from shutil import which
from typing import Any

import torch

from faithfulness_plugin.benchmarks.inspection.schema import Measured, PassageConfig
from faithfulness_plugin.benchmarks.real_layers.schema import RealLayersResult
from faithfulness_plugin.transcoders.load import load_transcoder

KIB, GIB, MEGABYTE = 1024, 2**30, 1e6
BROWSER = ("chromium", "chromium-browser", "google-chrome")
WITHOUT_NETWORK = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]


def measured(folder: Path, trained: RealLayersResult, config: PassageConfig) -> Measured:
    """The command in a process of its own, on a transcoder of a result, then its page in a browser.

    Raises RuntimeError with what the command says, where it fails."""
    with tempfile.TemporaryDirectory() as out:
        page = Path(out) / "page.html"
        command = [sys.executable, "-m", "faithfulness_plugin", "inspect", str(folder), "--out", str(page)]
        command += ["--tokens", str(config.cost_tokens), "--memory", str(config.memory)]
        command += ["--model", trained.config.model.name, "--context-size", str(trained.config.context_size)]
        command += [f"--text={file}" for file in trained.config.text.files]
        begun = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True)
        seconds = time.perf_counter() - begun
        if done.returncode:
            raise RuntimeError(f"faithfulness inspect failed: {done.stderr.strip().splitlines()[-1]}")
        return Measured(
            d_sae=len(load_transcoder(folder).W_dec),
            tokens=config.cost_tokens,
            threads=torch.get_num_threads(),
            seconds=seconds,
            memory=config.memory,
            peak=resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * KIB / GIB,
            page_megabytes=page.stat().st_size / MEGABYTE,
            **dict(zip(("load", "table", "sort"), opened(page), strict=True)),
        )


def opened(page: Path) -> tuple[float | None, float | None, float | None]:
    """Seconds until the page answers, until its table and a feature stand there, and until the table is sorted anew;
    None each without Playwright and a Chromium."""
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
        tab.wait_for_selector("#table-holder th.dt-ordering-asc >> text=fires")
        again = time.perf_counter()
        browser.close()
    return ready - begun, there - ready, again - there


def installed_browser() -> str | None:
    """The first Chromium on PATH."""
    return next((path for name in BROWSER if (path := which(name))), None)
