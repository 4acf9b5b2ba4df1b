"""Tables in Markdown, and the numbers in them."""

from collections.abc import Sequence

from faithfulness_plugin.results.schema import Interval, Share


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Format a pipe table.

    Args:
        header: the names of the columns.
        rows: the cells as text; pipes in them are escaped.

    Returns:
        The table as Markdown.
    """
    escaped = [[cell.replace("|", r"\|") for cell in line] for line in (header, *rows)]  # as in |x|
    lines = [escaped[0], ["---"] * len(header), *escaped[1:]]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def interval_text(value: Interval, digits: int) -> str:
    """Format an interval as mean ± half its width; for fewer than 5 values, the mean with the least and the largest.

    Args:
        value: what to show.
        digits: digits after the point.

    Returns:
        The text.
    """
    mean = f"{value.mean:.{digits}f}"
    if value.seen is not None:
        least, most = value.seen
        return f"{mean} ({least:.{digits}f} to {most:.{digits}f})"
    if value.low is None or value.high is None:
        return mean
    half, least = (value.high - value.low) / 2, 10.0**-digits
    return f"{mean} ± {half:.{digits}f}" if half == 0 or half >= least / 2 else f"{mean} ± <{least:.{digits}f}"


def share_text(value: Share) -> str:
    """Format a share as "count of n [low, high]".

    Args:
        value: what to show.

    Returns:
        The text.
    """
    return f"{value.count} of {value.n} [{value.low:.2f}, {value.high:.2f}]"
