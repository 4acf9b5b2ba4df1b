"""Markdown as one HTML file that needs no other."""

import base64
from collections.abc import Mapping

from faithfulness_plugin.extras import require_extra

STYLE = (
    "body{font:16px/1.55 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem;color:#1a1a1a;"
    "background:#fff}img{max-width:100%;height:auto;background:#fff}table{border-collapse:collapse;font-size:.82rem;"
    "display:block;overflow-x:auto;margin:1rem 0}td,th{border-bottom:1px solid #ccc;padding:.3rem "
    ".6rem;text-align:left}"
    "h2{margin-top:3rem;border-top:2px solid #ccc;padding-top:1rem}code{background:#8882;padding:.1rem .3rem}"
    "@media(prefers-color-scheme:dark){body{color:#e6e6e6;background:#16181c}a{color:#8ab4f8}}"
)


def self_contained(title: str, text: str, images: Mapping[str, bytes]) -> str:
    """Render Markdown as one HTML page with its figures inside, without scripts or network.

    Args:
        title: the page's.
        text: the Markdown.
        images: PNGs, by the names that the text has.

    Returns:
        The HTML.
    """
    require_extra("bench", "markdown_it")
    from markdown_it import MarkdownIt

    body = MarkdownIt("commonmark").enable("table").render(text)
    for name, image in images.items():
        data = base64.b64encode(image).decode()
        body = body.replace(f'src="{name}"', f'src="data:image/png;base64,{data}"')
    for heading in [line[3:] for line in text.splitlines() if line.startswith("## ")]:
        body = body.replace(f"<h2>{heading}</h2>", f'<h2 id="{anchor(heading)}">{heading}</h2>')
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head><body>{body}</body></html>\n'
    )


def anchor(title: str) -> str:
    """Compute the anchor that GitHub gives a heading.

    Args:
        title: the heading's text.

    Returns:
        The anchor, without #.
    """
    kept = "".join(c for c in title.lower() if c.isalnum() or c in " -_")
    return kept.replace(" ", "-")
