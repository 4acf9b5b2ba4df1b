"""One page that opens from disk: the features of a transcoder, or of two beside each other."""

import html
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from pathlib import Path

from faithfulness_plugin import atomic
from faithfulness_plugin.display import line
from faithfulness_plugin.extras import require_extra
from faithfulness_plugin.inspection.inspection import Inspection
from faithfulness_plugin.inspection.page.packing import compressed
from faithfulness_plugin.inspection.page.payload import is_set, named, payload

SCRIPTS = (
    *("unpack", "draw", "explain", "jacobian", "words", "between", "intervened"),
    *("overview", "set", "feature", "table", "compare", "main"),
)

MOST_SHOWN = 25e6
"""Bytes of a page that a notebook shows, and keeps in its file."""
FRAME = (
    '<iframe title="{title}" sandbox="allow-scripts allow-popups allow-popups-to-escape-sandbox" '
    'style="width:100%;height:{height}px;border:1px solid #8888" srcdoc="{page}"></iframe>'
)


@dataclass(frozen=True, repr=False)
class Page:
    """The page of one transcoder, or of two of one layer on one sample: a notebook shows it in a frame.

    The frame has the whole page inside, in a sandbox of its own: nothing in it reaches the notebook or the network. The
    notebook's file grows by the page's size. Above 25 MB a line says so in its place: save the page, and open the file.

    Example:
        >>> from pathlib import Path
        >>> from faithfulness_plugin import AbsInputs, AbsNetwork
        >>> from faithfulness_plugin.inspection import Page, inspect_transcoder, row_sample
        >>> from faithfulness_plugin.toy.exact_transcoder import exact_transcoder
        >>> layer = AbsNetwork(4)
        >>> found = inspect_transcoder(exact_transcoder(layer), layer, row_sample(layer, next(AbsInputs(4))))
        >>> Page([found]).save(Path("out/page.html"))  # doctest: +SKIP
        >>> Page([found])
        Page(transcoders=['transcoder'])
    """

    inspections: "Sequence[Inspection]"
    title: str = ""
    """The page's; "" names the transcoders."""
    height: int = 900
    """Pixels of the frame."""

    def __repr__(self) -> str:
        return line("Page", {"transcoders": [of.name for of in self.inspections]})

    @cached_property
    def html(self) -> str:
        """The page as text.

        Raises ValueError for another number of inspections than one or two, or two of different samples.
        """
        return page_html(self.inspections, title=self.title)

    def save(self, path: Path | str) -> None:
        """Write the page, whole or not at all.

        Args:
            path: the HTML file.

        Raises:
            OSError: it cannot be written.
        """
        atomic.write_text(Path(path), self.html)

    def _repr_html_(self) -> str:
        if len(self.html) > MOST_SHOWN:
            return (
                f"<p>{html.escape(repr(self))}: the page has {len(self.html) / 1e6:.0f} MB, which is much for a "
                "notebook's file: write it by <code>.save(&quot;page.html&quot;)</code>, and open that.</p>"
            )
        shown = html.escape(self.title or repr(self))
        return FRAME.format(title=shown, height=self.height, page=html.escape(self.html))


def page_html(
    inspections: Sequence[Inspection],
    *,
    token_text: Callable[[int], str] | None = None,
    title: str = "",
    details: int | None = None,
) -> str:
    """Render the page as text: scripts, styles and data inside, and a policy that forbids the network.

    Names and tokens reach it as data, compressed, and are shown as text: nothing in them can be markup.

    Args:
        inspections: one; two of one layer on one sample, which are then compared; or those of a set, a layer each, with
            the edges between them (`inspect_set`).
        token_text: for samples of text, `TokenText(tokenizer)`, or any function from a token id to its text; None takes
            the first inspection's.
        title: the page's; "" names the transcoders.
        details: how many features are shown in detail, with examples, weights and partners; the others have their
            numbers, the first example and the first tokens. None: all of one transcoder or two, 4,000 of a set.

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
    require_extra("inspect", "plotly")
    here, token_text = files(__name__), inspections[0].token_text if token_text is None else token_text
    filled = {
        "title": html.escape(title or "Features of " + named(inspections)),
        "page_css": (here / "page.css").read_text("utf-8"),
        "payload": payload(inspections, token_text, details),
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
    details: int | None = None,
) -> None:
    """Write the page, whole or not at all.

    Args:
        inspections: as in `page_html`.
        path: the HTML file.
        token_text: for samples of text, `TokenText(tokenizer)`, or any function from a token id to its text; None takes
            the first inspection's.
        title: the page's; "" names the transcoders.
        details: as in `page_html`.

    Raises:
        ValueError: as `page_html`.
        OSError: it cannot be written.
    """
    atomic.write_text(path, page_html(inspections, token_text=token_text, title=title, details=details))
