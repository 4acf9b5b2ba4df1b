"""Transcoders in the file formats of other libraries, read without those libraries.

A new format is one file here and one line in `registry.py`. The file defines `FORMAT`, a `Format` (see `format.py`):

- `likeness` says how much a folder or file resembles the format. It never raises.
- `read` makes a transcoder of it, or raises a `FormatError` that says in one line what is wrong and what to pass.

Nothing is read in silence. A format declares its tensors (`rule.Tensors`) and its settings (`rule.Settings`). Whatever
a file holds beside these is refused by name, and so are missing, transposed, too wide and non-finite tensors.
`files.py` opens files, and `parts.transcoder_of` makes the SAELens class. `tests/published_files.py` writes each format
as its publisher does, and `tests/transcoders/formats/test_grid.py` runs all of them through every kind of fault.
"""
