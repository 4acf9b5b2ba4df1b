"""Sets of transcoders, one for each layer of a model, measured with all of them in place at once."""
