"""The error that every format raises, and what its messages name."""

from pathlib import Path

from faithfulness_plugin.errors import FormatError as FormatError

Where = Path | str
"""The file, folder or address that a message names."""
