"""Transcoders as SAELens classes: trained, exported, loaded."""

# Whoever imports SAELens first makes it register ours (see the package's root). Here that happens before any module of
# this package is half imported.
import sae_lens  # noqa: F401

from faithfulness_plugin.submodules import submodules

__getattr__, __dir__, __all__ = submodules(__name__, __path__)
