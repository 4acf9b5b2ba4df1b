"""The formats that `load_transcoder` knows, one line each."""

from faithfulness_plugin.transcoders.formats import sparsify
from faithfulness_plugin.transcoders.formats.format import Format

FORMATS: tuple[Format, ...] = (
    sparsify.FORMAT,
)
"""Of formats that a folder resembles equally, the first reads it."""
