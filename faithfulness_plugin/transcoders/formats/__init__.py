"""Transcoders in the file formats of other libraries, read without those libraries.

A new format is one file here and one line in `registry.py`. The file defines a subclass of `Format` (see `format.py`),
which declares the names of its files, its settings and its tensors (`schema.py`), and whose `function` says what these
stand for. Opening files, recognising a format and building the SAELens class are done once, in `format.py`.

Nothing is read in silence. Whatever a file holds beside what is declared is refused by name, and so are missing,
transposed, too wide and non-finite tensors. `tests/published_files.py` writes each format as its publisher does, and
`tests/transcoders/formats/test_grid.py` runs all of them through every kind of fault.
"""
