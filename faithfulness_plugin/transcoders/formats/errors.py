"""The error that every format raises, and what its messages speak of."""

from pathlib import Path


class FormatError(ValueError):
    """What looked like a library's transcoder cannot be read as one."""


Where = Path | str
"""The file, folder or address that a message speaks of."""
