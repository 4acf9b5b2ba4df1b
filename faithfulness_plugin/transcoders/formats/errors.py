"""The error that every format raises, and what its messages name."""

from pathlib import Path

from faithfulness_plugin.errors import UsageError


class FormatError(UsageError):
    """Files that look like a library's transcoder cannot be read as one."""


Where = Path | str
"""The file, folder or address that a message names."""
