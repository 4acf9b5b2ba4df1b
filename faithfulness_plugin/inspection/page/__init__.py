"""One page that opens from disk: the features of a transcoder, or of two beside each other."""

import html
import re
from collections.abc import Callable, Sequence
from importlib.resources import files
from pathlib import Path

from faithfulness_plugin import atomic
from faithfulness_plugin.extras import require_extra
from faithfulness_plugin.inspection.inspection import Inspection
from faithfulness_plugin.inspection.page.packing import compressed
from faithfulness_plugin.inspection.page.payload import is_set, named, payload

SCRIPTS = (
    *("unpack", "draw", "explain", "jacobian", "words", "between", "intervened"),
    *("overview", "set", "feature", "table", "compare", "main"),
)


def page_html(
    inspections: Sequence[Inspection], *, token_text: Callable[[int], str] | None = None, title: str = ""
) -> str:
    """Render the page as text: scripts, styles and data inside, and a policy that forbids the network.

    Names and tokens reach it as data, compressed, and are shown as text: nothing in them can be markup.

    Args:
        inspections: one; two of one layer on one sample, which are then compared; or those of a set, a layer each, with
            the edges between them (`inspect_set`).
        token_text: for samples of text, `TokenText(tokenizer)`, or any function from a token id to its text.
        title: the page's; "" names the transcoders.

    Returns:
        The HTML.

    Raises:
        ValueError: another number of inspections, or two of different samples, without edges between them.
    """
    if not is_set(inspections):
        if len(inspections) not in (1, 2):
            raise ValueError(f"a page shows one transcoder, or two beside each other: these are {len(inspections)}")
        if any(i.sample is not inspections[0].sample for i in inspections):
            raise ValueError("the two were looked at on different samples: inspect both on one")
    require_extra("inspect", "itables", "plotly")
    here = files(__name__)
    filled = {
        "title": html.escape(title or "Features of " + named(inspections)),
        "table_css": (files("itables") / "html" / "dt_bundle.css").read_text("utf-8"),
        "page_css": (here / "page.css").read_text("utf-8"),
        "payload": payload(inspections, token_text),
        "table_js": compressed((files("itables") / "html" / "dt_bundle.js").read_text("utf-8")),
        "plots_js": compressed((files("plotly") / "package_data" / "plotly.min.js").read_text("utf-8")),
        "page_js": "\n".join((here / f"{name}.js").read_text("utf-8") for name in SCRIPTS),
    }
    return re.sub(r"@(\w+)@", lambda match: filled[match[1]], (here / "page.html").read_text("utf-8"))


def write_page(
    inspections: Sequence[Inspection],
    path: Path,
    *,
    token_text: Callable[[int], str] | None = None,
    title: str = "",
) -> None:
    """Write the page, whole or not at all.

    Args:
        inspections: as in `page_html`.
        path: the HTML file.
        token_text: for samples of text, `TokenText(tokenizer)`, or any function from a token id to its text.
        title: the page's; "" names the transcoders.

    Raises:
        ValueError: as `page_html`.
        OSError: it cannot be written.
    """
    atomic.write_text(path, page_html(inspections, token_text=token_text, title=title))
