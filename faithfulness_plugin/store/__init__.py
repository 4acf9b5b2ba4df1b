"""Rows of a layer and its derivatives there, on disk: asked of the model once, trained on as often as one likes."""

from faithfulness_plugin.store.index import StoreError
from faithfulness_plugin.store.rows import StoredRows
from faithfulness_plugin.store.store import DerivativeStore

__all__ = ["DerivativeStore", "StoreError", "StoredRows"]
