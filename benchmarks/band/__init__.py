"""A cross-layer transcoder of a band of a language model's layers, beside one transcoder for each."""
