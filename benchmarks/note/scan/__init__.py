"""`faithfulness scan`: a grid of toy transcoders, trained as ensembles."""
